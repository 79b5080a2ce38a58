"""Whether PostgreSQL and Redis can be used, and what an operator is told if not."""
