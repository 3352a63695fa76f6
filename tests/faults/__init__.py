"""Whole nights of the real scripts, with fast stand-ins for trainer and engine, and something that goes wrong."""
