"""A worker process: what it is made of, how it runs attempts, when it is replaced."""
