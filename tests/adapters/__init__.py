"""Adapters that must not be served, and adapters that must: made by a script, put to a real server."""
