"""A process for a single attempt."""
