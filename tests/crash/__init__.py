"""Kills at every system call that changes a file, and power cuts: what was acknowledged must be there afterwards."""
