"""The Council server and its embedded engine."""
