"""An asynchronous job service: PostgreSQL stores the jobs, Redis delivers the messages, Dramatiq runs the code."""

__version__ = "0.1.0"
