"""The brief's CSV job with Falcon and Celery, as Celery's documentation shows it for jobs that must not be lost.

A comparator of the benchmark, never used outside it. The table and the pooled database are the straightforward
version's.
"""
