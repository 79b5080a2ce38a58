"""Whether PostgreSQL and Redis can be used, and what to do if not."""
