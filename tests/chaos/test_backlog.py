"""Fault 19: twenty thousand jobs wait for one worker. Redis holds a window a priority, and the urgent go first."""

import itertools

from eventually import eventually
from rows import write_backlog
from samples import new_job

from jobs_service.config import Settings

#: For each priority.
WINDOW = 500
#: Priority -> how many wait, the least urgent posted first.
WAITING = {1: 18_000, 5: 1_000, 9: 1_000}
URGENT = "priority > 1 AND status <> 'completed'"

#: Messages are popped by so many threads at once, so that neighbours in line may overtake each other.
THREADS = 4


def test_a_backlog_waits_in_postgresql_and_the_urgent_go_first(stack, own_valkey):
    write_backlog(Settings.from_env(stack.service.environ), waiting_jobs())
    with own_valkey.client() as client:
        before = client.info("memory")["used_memory"]
        worker = stack.service.start_worker(QUEUE_WINDOW=str(WINDOW), WORKER_THREADS=str(THREADS))
        lengths, memory = [], []

        def urgent_are_done():
            lengths.append(client.zcard("jobs:queue:{default}:test-effect"))
            memory.append(client.info("memory")["used_memory"])
            return not stack.sql(f"SELECT FROM jobs WHERE {URGENT} LIMIT 1")

        eventually(urgent_are_done, seconds=120, what="the end of the urgent")
        worker.stop(seconds=60)
        assert 0 < max(lengths) <= WINDOW * len(WAITING)
        # Half a kilobyte for each message of the windows, and what the connections need.
        assert max(memory) - before < 4_000_000
        assert_urgent_went_first(stack)
        client.delete("jobs:queue:{default}:test-effect")
    # The point is made.
    stack.sql("DELETE FROM jobs WHERE status = 'pending' RETURNING 1")


def waiting_jobs():
    return [new_job(type="test-effect", priority=priority) for priority, count in WAITING.items() for _ in range(count)]


def assert_urgent_went_first(stack):
    for low, high in itertools.pairwise(WAITING):
        sql = """SELECT count(*) FROM jobs
        WHERE priority = %s AND started_at < (SELECT max(started_at) FROM jobs WHERE priority = %s)"""
        assert stack.sql(sql, (low, high))[0][0] <= THREADS
