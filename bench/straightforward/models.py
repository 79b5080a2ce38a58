"""The unchanged table of `seeds/001_create_jobs_table.sql`, and a pooled database."""

import datetime as dt
import os

from peewee import CharField, DateTimeField, IntegerField, Model, TextField, UUIDField
from playhouse.db_url import parse
from playhouse.pool import PooledPostgresqlDatabase
from playhouse.postgres_ext import BinaryJSONField

database = PooledPostgresqlDatabase(
    **parse(os.environ["DATABASE_URL"]), max_connections=16, stale_timeout=300, timeout=10
)


def utcnow() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


class Job(Model):
    id = UUIDField(primary_key=True)
    type = CharField(max_length=50)
    status = CharField(max_length=20, default="pending")
    payload = BinaryJSONField()
    result = BinaryJSONField(null=True)
    error = TextField(null=True)
    attempts = IntegerField(default=0)
    created_at = DateTimeField(default=utcnow)
    updated_at = DateTimeField(default=utcnow)

    class Meta:
        database = database
        table_name = "jobs"
