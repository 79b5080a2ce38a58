"""The yardstick: the CSV job, written as the documentation of Falcon, peewee and Dramatiq recommends.

It is meant to be good ordinary code and a fair comparison: pooled connections, a context per request and per message,
several processes and threads, and default settings for the rest. Only the benchmark uses it.
"""
