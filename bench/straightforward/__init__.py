"""The brief's CSV job as the documentation of Falcon, peewee and Dramatiq shows how to write it: the yardstick.

It is meant to be good ordinary code, not a straw man: pooled connections, a context per request and per message,
several processes and threads, default settings elsewhere. It is never used outside the benchmark.
"""
