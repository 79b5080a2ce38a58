"""An asynchronous job service: PostgreSQL keeps the jobs, Redis rings, Dramatiq runs them."""

__version__ = "0.1.0"
