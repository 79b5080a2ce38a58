"""Faults at random under a steady load, on real processes and servers: `make soak SECONDS=300 SEED=7`.

The same seed makes the same schedule; the machine decides what exactly each fault meets. At the end everything is
healed, every accepted job has to end, and every invariant has to hold. If not, the seed and the schedule are printed.
"""

import argparse
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

import psycopg2
from eventually import eventually
from invariants import violations
from service import QUICK, Service
from stack import LOAD, Stack

#: Jobs a second, so that a pass of any length stays within what the machine can do.
RATE = 15

SETTLE_SECONDS = 180.0


class Soak:
    """A stack, its own servers, a client that posts all the time, and what has been done to them."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        environ = {**QUICK, "DATABASE_URL": "", "REDIS_URL": "", "OUTPUT_DIR": str(folder / "output")}
        self.stack = Stack(Service(environ, folder), folder)
        self.valkey = self.stack.start_own_valkey()
        self.postgres = self.stack.start_own_postgres()
        self.api = self.stack.service.start_api()
        self.workers = [self._new_worker() for _ in range(2)]
        self.schedule: list[str] = []
        self.posts = 0
        self._began = time.monotonic()
        self._enough = Event()
        self._client = Thread(target=self._post_all_the_time, name="client")

    def run(self, seconds: float) -> list[str]:
        """Break things for so long, then heal them. Returns what is wrong."""
        self._client.start()
        try:
            while time.monotonic() - self._began < seconds:
                self._break_something()
        finally:
            self._enough.set()
            self._client.join()
        return self._verdict()

    def end(self) -> None:
        for child in self.stack.service.children:
            child.kill()
        self.stack.servers.close()

    def say(self, what: str) -> None:
        line = f"{time.monotonic() - self._began:7.2f} s  {what}"
        self.schedule.append(line)
        print(line, flush=True)

    # What can be done to it. Each leaves everything running again.

    def kill_a_worker_process(self) -> None:
        if pids := self.stack.worker_pids(self.random.choice(self.workers)):
            _signal(self.random.choice(pids), signal.SIGKILL)

    def kill_a_supervisor(self) -> None:
        number = self.random.randrange(len(self.workers))
        os.kill(self.workers[number].pid, signal.SIGKILL)
        self.workers[number] = self._new_worker()

    def kill_a_whole_worker(self) -> None:
        number = self.random.randrange(len(self.workers))
        self.workers[number].kill()
        self.workers[number] = self._new_worker()

    def stop_a_worker(self) -> None:
        number = self.random.randrange(len(self.workers))
        self.workers[number].stop(seconds=20)
        self.workers[number] = self._new_worker()

    def freeze_a_worker(self) -> None:
        worker = self.random.choice(self.workers)
        worker.pause()
        self._pause(0.2, 3)
        worker.resume()

    def kill_the_api(self) -> None:
        self.api.kill()
        self.api = self.stack.service.start_api()

    def stop_the_api(self) -> None:
        self.api.stop(seconds=20)
        self.api = self.stack.service.start_api()

    def wipe_redis(self) -> None:
        with self.stack.redis() as client:
            client.flushall()

    def kill_redis(self) -> None:
        self.valkey.kill()
        self._pause(0.1, 2)
        self.valkey.start()

    def freeze_redis(self) -> None:
        self.valkey.pause()
        self._pause(0.2, 3)
        self.valkey.resume()

    def kill_postgres(self) -> None:
        self.postgres.stop(with_signal=signal.SIGQUIT)
        self._pause(0.1, 2)
        self.postgres.start()

    def freeze_postgres(self) -> None:
        self.postgres.pause()
        self._pause(0.2, 2)
        self.postgres.resume()

    def end_every_session(self) -> None:
        with suppress(psycopg2.Error):
            self.stack.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def _break_something(self) -> None:
        fault = self.random.choice(FAULTS)
        self.say(fault.__name__.replace("_", " "))
        fault(self)
        self._pause(0.1, 2)

    def _pause(self, low: float, high: float) -> None:
        time.sleep(self.random.uniform(low, high))

    def _new_worker(self):
        return self.stack.service.start_worker(WORKER_PROCESSES="2")

    def _post_all_the_time(self) -> None:
        for work in cycle(LOAD):
            if self._enough.wait(1 / RATE):
                return
            self.posts += 1
            self.stack.submit(*work[:2], **work[2])

    def _verdict(self) -> list[str]:
        self.say(f"healed: {self.posts} posts, {len(self.stack.accepted)} accepted")
        try:
            self.stack.settle(seconds=SETTLE_SECONDS)
            # What was committed and whose client was not told has to end as well.
            eventually(self._nothing_is_left, seconds=SETTLE_SECONDS, what="the end of every job")
        except AssertionError as error:
            return [str(error), *violations(self.stack)]
        return violations(self.stack)

    def _nothing_is_left(self) -> bool:
        return not self.stack.sql("SELECT 1 FROM jobs WHERE finished_at IS NULL LIMIT 1")


FAULTS: list[Callable[[Soak], None]] = [
    Soak.kill_a_worker_process,
    Soak.kill_a_supervisor,
    Soak.kill_a_whole_worker,
    Soak.stop_a_worker,
    Soak.freeze_a_worker,
    Soak.kill_the_api,
    Soak.stop_the_api,
    Soak.wipe_redis,
    Soak.kill_redis,
    Soak.freeze_redis,
    Soak.kill_postgres,
    Soak.freeze_postgres,
    Soak.end_every_session,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="a number; without it one is drawn, and printed")
    arguments = parser.parse_args()
    seed = secrets.randbelow(10_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.seconds:g} s", flush=True)
    return _soak(seed, arguments.seconds)


def _soak(seed: int, seconds: float) -> int:
    folder = Path(tempfile.mkdtemp(prefix="jobs-soak-"))
    with ExitStack() as ending:
        soak = Soak(seed, folder)
        ending.callback(soak.end)
        wrong = soak.run(seconds)
        statuses = soak.stack.sql("SELECT status, dead_reason, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2")
    for status, reason, count in statuses:
        print(f"{count:6} {status} {reason or ''}")
    if wrong:
        print(f"\nseed {seed} broke:", *wrong, "the schedule:", *soak.schedule, f"logs: {folder}", sep="\n")
    else:
        print(f"nothing lost, nothing doubled in silence; seed {seed}")
    return 1 if wrong else 0


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
