"""Agent-0: everything in the nightly self-improvement loop that computes."""
