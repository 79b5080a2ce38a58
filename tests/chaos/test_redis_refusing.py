"""Fault 11: Redis answers, and its answer is no: out of memory, read-only, cannot save, full, locked, busy."""

import contextlib
import threading
from contextlib import contextmanager

import pytest
import redis
from eventually import eventually


@contextmanager
def out_of_memory(server, client):  # noqa: ARG001
    client.config_set("maxmemory", 1)
    try:
        yield "maxmemory"
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def read_only(server, client):  # noqa: ARG001
    """A replica of nobody, as after a failover that went wrong."""
    client.replicaof("127.0.0.1", 1)
    try:
        yield "read only"
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def cannot_save(server, client):
    """MISCONF: the last snapshot failed, because a folder has its name."""
    dump = server.folder / "dump.rdb"
    (dump / "full").mkdir(parents=True)
    client.config_set("save", "3600 1")
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", what="a failed snapshot")
    try:
        yield "MISCONF"
    finally:
        (dump / "full").rmdir()
        dump.rmdir()
        # Refused while Redis tries again by itself, and that one may still fail.
        eventually(lambda: is_saved(client), what="a snapshot")


@contextmanager
def full(server, client):  # noqa: ARG001
    """No connection is left for the service."""
    client.config_set("maxclients", 1)
    client.client_kill_filter(_type="normal", skipme=True)
    try:
        yield "max number of clients"
    finally:
        client.config_set("maxclients", 10_000)


@contextmanager
def locked(server, client):  # noqa: ARG001
    """Somebody has set a password."""
    client.config_set("requirepass", "secret")
    client.client_kill_filter(_type="normal", skipme=True)
    try:
        yield "authenticated"
    finally:
        client.config_set("requirepass", "")


@contextmanager
def busy(server, client):
    """A script that does not end."""
    client.config_set("busy-reply-threshold", 1)
    script = threading.Thread(target=_run_for_ever, args=(server,))
    script.start()
    eventually(lambda: _is_busy(server), what="a busy Redis")
    try:
        yield "busy running a script"
    finally:
        client.script_kill()
        script.join()


def is_saved(client):
    """Tell whether the last snapshot was a success; ask for another one if not."""
    info = client.info("persistence")
    if info["rdb_last_bgsave_status"] != "ok" and not info["rdb_bgsave_in_progress"]:
        client.bgsave()
    return info["rdb_last_bgsave_status"] == "ok"


def _run_for_ever(server):
    with server.client() as client, contextlib.suppress(redis.RedisError):
        client.eval("while true do end", 0)


def _is_busy(server):
    try:
        with server.client() as client:
            client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


@pytest.mark.parametrize("refusal", [out_of_memory, read_only, cannot_save, full, locked, busy])
def test_no_thread_dies_of_a_refusal(stack, own_valkey, refusal):
    worker = stack.start()
    with stack.no_process_ends(), own_valkey.client() as client:
        client.ping()
        stack.submit_load(8)
        stack.strike()
        with refusal(own_valkey, client) as reason:
            assert None not in [stack.submit() for _ in range(8)]
            eventually(lambda: reason.lower() in stack.service.log(worker).lower(), what=f"{reason} in the log")
        stack.submit_load(8)
        stack.settle()
