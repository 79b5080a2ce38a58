"""Middleware around messages (Dramatiq) and requests (Falcon)."""
