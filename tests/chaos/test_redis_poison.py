"""Fault 17: messages and keys in Redis that are none of ours, among those that are."""

import json
from uuid import uuid4

import pytest
from eventually import eventually

from jobs_service.broker.keys import Keys

QUEUE = Keys().queue("default")


def message(**fields):
    job_id = str(uuid4())
    usual = {
        "queue_name": "default",
        "actor_name": "test-effect",
        "args": [job_id],
        "kwargs": {},
        "options": {"priority": 5},
        "message_id": job_id,
        "message_timestamp": 1,
    }
    return json.dumps(usual | fields).encode()


UNREADABLE = {
    "nothing": b"",
    "not JSON": b"hello",
    "half a message": message()[:-9],
    "not UTF-8": b"\xff\xfe\x00",
    "a number": b"42",
    "null": b"null",
    "a list": b"[1, 2]",
    "no keys": b"{}",
    "a key missing": b'{"queue_name":"default","actor_name":"test-effect","args":[],"kwargs":{},"options":{}}',
    "a key too many": message(surprise=1),
    "no arguments": message(args=[]),
    "arguments that are none": message(args=7),
    "a job id that is none": message(args=["../../etc/passwd"]),
    "a job id of another type": message(args=[{"a": 1}]),
    "an actor that is none": message(actor_name=None),
    "an actor of another type": message(actor_name={"a": [1]}),
    "options that are none": message(options="x"),
    "a priority that is none": message(options={"priority": "urgent"}),
    "an infinite priority": message(options={"priority": float("inf")}),
    "a deep list": b"[" * 200_000,
    "a deep object": b'{"a":' * 200_000,
    "a deep argument": message(args=["x"]).replace(b'"x"', b"[" * 50_000 + b"]" * 50_000),
    "a huge number": message(args=[1]).replace(b"[1]", b"[" + b"9" * 5_000 + b"]"),
    "5 MB": b"x" * 5_000_000,
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.",
}

READABLE = {
    "of an unknown job": message(),
    "of an unknown job and type": message(actor_name="never-heard-of"),
    "of an actor with a strange name": message(actor_name="\x00\n" + "x" * 10_000),
    "for another queue": message(queue_name="elsewhere"),
    "with an eta far away": message(options={"eta": 10**15, "max_age": 1, "max_retries": None, "time_limit": 1}),
    "with callbacks": message(options={"on_success": "test-kill-worker", "pipe_target": {"actor_name": "x"}}),
    "with a priority beyond all": message(options={"priority": 10**30}),
    "with arguments too many": message(args=[str(uuid4()), 2, 3], kwargs={"a": 1}),
}


def test_the_neighbours_of_poison_run_and_the_unreadable_is_kept_aside(stack, own_valkey):
    stack.start()
    with stack.no_process_ends(), own_valkey.client() as client:
        stack.strike()
        for number, poison in enumerate([*UNREADABLE.values(), *READABLE.values()]):
            # The best places in line, so that all of it lies before the neighbours.
            client.zadd(QUEUE, {poison: number - 1_000})
            stack.submit()
        stack.submit_load(8)
        stack.settle()

        def aside():
            return client.llen(Keys().undecodable) == len(UNREADABLE)

        eventually(aside, what="everything unreadable kept aside")
    assert not [job_id for job_id in stack.effects() if job_id not in stack.accepted]


def test_a_message_for_a_job_of_another_type_does_not_run_it_as_that(stack, own_valkey):
    stack.start()
    with own_valkey.client() as client:
        job_id = stack.submit(payload={}, delay_seconds=1)
        for actor in ("test-kill-worker", "csv-generation", "test-reject"):
            client.zadd(QUEUE, {message(actor_name=actor, args=[job_id], message_id=job_id): 1})
        stack.strike()
        with stack.no_process_ends():
            stack.settle()

    assert ("completed", 1) == stack.row(job_id, "status", "attempts")


@pytest.mark.parametrize("kind", ["string", "list", "set", "hash", "zset", "stream"])
def test_another_programs_values_stay_and_are_named_and_the_jobs_run_once_they_are_gone(stack, own_valkey, kind):
    worker = stack.start()
    taken = [key for key, ours in Keys().types(["default"]).items() if kind != ours and not key.endswith(":new")]
    with stack.no_process_ends(), own_valkey.client() as client:
        stack.strike()
        for key in taken:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(key)
                put(pipeline, key, kind)
                pipeline.execute()
        before = {key: client.dump(key) for key in taken}
        stack.submit_load(16)

        status, answer = stack.service.get("/readyz")
        named = {key for key in taken if f"the key {key} holds a {kind}" in answer["checks"]["redis"]}
        assert (200, "degraded", {*taken}) == (status, answer["status"], named)
        # Until maintenance has had its turn at all of it.
        eventually(lambda: "Maintenance waits for a server" in stack.service.log(worker), what="a word in the log")
        assert before == {key: client.dump(key) for key in taken}

        client.delete(*taken)
        stack.settle()


def put(client, key, kind):
    match kind:
        case "string":
            client.set(key, "x")
        case "list":
            client.rpush(key, "x")
        case "set":
            client.sadd(key, "x")
        case "hash":
            client.hset(key, "x", "y")
        case "zset":
            client.zadd(key, {"x": 1})
        case "stream":
            client.xadd(key, {"x": "y"})
