"""Prometheus metrics: definitions, multiprocess set-up, and what is read from PostgreSQL at scrape time."""
