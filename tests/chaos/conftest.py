"""The stack of a chaos test. After each test: wait for quiet, check every invariant, leave no process behind."""

import os
import sys
from pathlib import Path

import pytest
from eventually import eventually
from invariants import violations
from report import Report
from service import Service
from stack import Stack

from devstack.processes import is_alive

ROOT = Path(__file__).parents[2]

_report = Report()


@pytest.fixture
def stack(environ, tmp_path, request):
    """An API and workers to be started and broken by the test."""
    stack = Stack(Service(environ, tmp_path), tmp_path)
    try:
        yield stack
        wrong = _verify(stack)
        if wrong:
            _tell(stack.service)
        _report.add(request.node.path.relative_to(ROOT), stack, sum("was accepted" in sentence for sentence in wrong))
    finally:
        pids = stack.pids()
        stack.service.end()
        stack.servers.close()
    eventually(lambda: not [pid for pid in pids if is_alive(pid)], what="the end of every process")
    assert [] == wrong


def _verify(stack):
    try:
        stack.settle()
        stack.settle_unconfirmed()
    except AssertionError as error:
        return [f"was accepted and did not end: {error}", *violations(stack)]
    return violations(stack)


def _tell(service):
    """Write the end of what each process of the service said, for pytest to show beside the failure."""
    for child in service.children:
        end = service.log(child).splitlines()[-12:]
        sys.stdout.write("\n".join([f"--- {child.log.name}", *end, ""]))


@pytest.fixture
def own_valkey(stack):
    """A Redis of the test's own, to be killed, frozen and wiped; nothing of it is on the disk."""
    return stack.start_own_valkey()


@pytest.fixture
def own_postgres(stack):
    """A PostgreSQL of the test's own, to be killed and frozen."""
    return stack.start_own_postgres()


@pytest.fixture
def redis_proxy(stack, valkey):
    """A proxy that is to fail, between the service and Redis."""
    return stack.through("REDIS_URL", valkey.port)


@pytest.fixture
def postgres_proxy(stack, postgres):
    """A proxy that is to fail, between the service and PostgreSQL."""
    return stack.through("DATABASE_URL", postgres.port)


def pytest_sessionfinish():
    if page := os.environ.get("CHAOS_REPORT"):
        _report.write(ROOT / page)
