"""Dramatiq middleware: what happens around each attempt."""
