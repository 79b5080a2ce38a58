"""Storage for the files that jobs write."""
