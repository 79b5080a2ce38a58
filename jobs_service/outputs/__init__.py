"""The files that jobs write."""
