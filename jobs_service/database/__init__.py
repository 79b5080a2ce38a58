"""PostgreSQL: connections, statements that share a commit, the schema."""
