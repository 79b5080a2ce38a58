"""Faults at random under a steady load, on real processes and servers: `make soak SECONDS=300 SEED=7`.

The same seed makes the same schedule; the machine decides what exactly each fault meets. At the end everything is
healed, every accepted job has to end, and every invariant has to hold. If not, the seed and the schedule are printed.

A machine without libfaketime has no stepped clock, one on which no disk may be mounted no full one. The start says so,
and a seed makes another schedule there.
"""

import argparse
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

import psycopg2
from eventually import eventually
from faketime import FAKETIME, ClockedPostgres
from invariants import violations
from service import QUICK, Service
from stack import LOAD, Stack

from devstack.processes import descendants
from devstack.servers import NOBODY, Postgres

T = TypeVar("T")

#: Jobs a second, so that a pass of any length stays within what the machine can do.
RATE = 15

SETTLE_SECONDS = 180.0

#: What statements that change a job hold, the general and the rare ones. Their replies get lost.
STATEMENTS = (
    b"INSERT INTO jobs",
    b"UPDATE jobs",
    b"SET status = 'processing'",
    b"SET status = 'completed'",
    b"SET status = 'pending'",
    b"WorkerLost",
)

#: Room for PostgreSQL to start and to run; what is left over is filled.
DISK = "size=300m"
SMALL_LOG = ("max_wal_size=48MB", "min_wal_size=32MB")

HOUR = 3_600
#: After which every process of PostgreSQL has seen a step of the clock.
SEEN_SECONDS = 2.5


class Soak:
    """A stack, its own servers, a client that posts all the time, and what has been done to them."""

    def __init__(self, seed: int, folder: Path, only: Sequence[str]) -> None:
        self.random = random.Random(seed)
        #: What this machine cannot do.
        self.left_out: list[str] = []
        environ = {**QUICK, "DATABASE_URL": "", "REDIS_URL": "", "OUTPUT_DIR": str(folder / "output")}
        self.stack = Stack(Service(environ, folder), folder)
        self.disk = folder / "own-postgres"
        self._mount()
        self.valkey = self.stack.start_own_valkey()
        self.postgres = self.stack.start_own_postgres(*SMALL_LOG, kind=self._kind_of_postgres())
        self.redis_proxy = self.stack.through("REDIS_URL", self.valkey.port)
        self.postgres_proxy = self.stack.through("DATABASE_URL", self.postgres.port)
        self.faults = [fault for fault in FAULTS if fault.__name__ not in self.left_out and _is_named(fault, only)]
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
        self.stack.service.end()
        self.stack.servers.close()

    def say(self, what: str) -> None:
        line = f"{time.monotonic() - self._began:7.2f} s  {what}"
        self.schedule.append(line)
        print(line, flush=True)

    # What can be done to it. Each leaves everything running again.

    def kill_a_worker_process(self) -> None:
        if pids := self.stack.worker_pids(self._any(self.workers)):
            _signal(self._any(pids), signal.SIGKILL)

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

    def stop_a_worker_process(self) -> None:
        if pids := self.stack.worker_pids(self._any(self.workers)):
            _signal(self._any(pids), signal.SIGTERM)

    def reload_a_worker(self) -> None:
        """Each dramatiq command, which is what has children of its own, starts its worker process anew."""
        for pid in self.stack.worker_pids(self._any(self.workers)):
            if descendants(pid):
                _signal(pid, signal.SIGHUP)

    def freeze_a_worker(self) -> None:
        worker = self._any(self.workers)
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

    def lose_replies_of_postgres(self) -> None:
        """Have a few statements that change a job carried out, and the connection cut before the answer."""
        for _ in range(self.random.randint(1, 4)):
            self.postgres_proxy.lose_reply(self._any(STATEMENTS), spared=self.random.randint(0, 9))

    def cut_every_connection(self) -> None:
        self._any((self.postgres_proxy, self.redis_proxy)).cut()

    def swallow_one_direction(self) -> None:
        proxy = self._any((self.postgres_proxy, self.redis_proxy))
        requests = self._any((True, False))
        proxy.blackhole(requests=requests, answers=not requests)
        self._pause(0.2, 4)
        proxy.heal()

    def swallow_both_directions(self) -> None:
        proxy = self._any((self.postgres_proxy, self.redis_proxy))
        proxy.blackhole()
        self._pause(0.2, 4)
        proxy.heal()

    def refuse_connections(self) -> None:
        proxy = self._any((self.postgres_proxy, self.redis_proxy))
        proxy.down()
        self._pause(0.2, 3)
        proxy.heal()

    def lock_the_table(self) -> None:
        self._hold("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")

    def lock_rows(self) -> None:
        self._hold("SELECT FROM jobs WHERE finished_at IS NULL FOR UPDATE")

    def step_the_clock(self) -> None:
        seconds = self._any((-HOUR, HOUR))
        self.postgres.set_clock(seconds)
        self._pause(2, 6)
        self.postgres.set_clock(0)
        time.sleep(SEEN_SECONDS)

    def fill_the_disk(self) -> None:
        ballast = self.disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4_096))
        self._pause(0.5, 4)
        ballast.unlink()
        # Without room for its log PostgreSQL ends itself, and is for the operator to start again.
        eventually(self._postgres_is_up, what="PostgreSQL")

    def _postgres_is_up(self) -> bool:
        if not (self.postgres.child and self.postgres.child.running):
            self.postgres.start()
        return self.postgres.answers()

    def _hold(self, lock: str) -> None:
        """Hold a lock for a while. Waiting for it is not worth a pass of its own."""
        with suppress(psycopg2.OperationalError), closing(psycopg2.connect(self.postgres.url)) as session:
            with session.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '5s'; {lock}")
            self._pause(0.2, 4)

    def _break_something(self) -> None:
        fault = self._any(self.faults)
        self.say(fault.__name__.replace("_", " "))
        fault(self)
        self._pause(0.1, 2)

    def _any(self, things: Sequence[T]) -> T:
        """Choose one by a single draw, however many there are, so that a seed makes the same schedule."""
        return things[int(self.random.random() * len(things))]

    def _mount(self) -> None:
        """Give PostgreSQL a small disk of its own."""
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(self.disk)]
        if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
            self.left_out.append("fill_the_disk")
            return
        shutil.chown(self.disk, NOBODY)
        self.stack.servers.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)

    def _kind_of_postgres(self) -> type[Postgres]:
        if FAKETIME:
            return ClockedPostgres
        self.left_out.append("step_the_clock")
        return Postgres

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

    def _heal(self) -> None:
        """Take back what is still to come: replies to be lost, and what a clock that was ahead has put off."""
        self.postgres_proxy.heal()
        self.redis_proxy.heal()
        eventually(self._put_off_no_longer, what="dates that are not far away")

    def _put_off_no_longer(self) -> bool:
        """Have done now what was written an hour ahead: no job here waits for ten minutes of its own accord."""
        far = "greatest(run_at, publish_at) > now() + interval '10 minutes'"
        sql = f"UPDATE jobs SET run_at = least(run_at, now()), publish_at = now() WHERE {far} AND finished_at IS NULL"
        return not self.stack.sql(f"{sql} RETURNING 1")

    def _verdict(self) -> list[str]:
        self._heal()
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
    Soak.stop_a_worker_process,
    Soak.reload_a_worker,
    Soak.lose_replies_of_postgres,
    Soak.cut_every_connection,
    Soak.swallow_one_direction,
    Soak.swallow_both_directions,
    Soak.refuse_connections,
    Soak.lock_the_table,
    Soak.lock_rows,
    Soak.step_the_clock,
    Soak.fill_the_disk,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="a number; without it one is drawn, and printed")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="FAULT", help="parts of the names of faults: no others"
    )
    arguments = parser.parse_args()
    seed = secrets.randbelow(10_000) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, {arguments.seconds:g} s", flush=True)
    return _soak(seed, arguments.seconds, arguments.only)


def _is_named(fault: Callable[[Soak], None], parts: Sequence[str]) -> bool:
    return any(part in fault.__name__ for part in parts)


def _soak(seed: int, seconds: float, only: Sequence[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="jobs-soak-"))
    with ExitStack() as ending:
        soak = Soak(seed, folder, only)
        ending.callback(soak.end)
        for fault in soak.left_out:
            print(f"left out, because this machine cannot do it: {fault.replace('_', ' ')}", flush=True)
        wrong = soak.run(seconds)
        statuses = soak.stack.sql("SELECT status, end_reason, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2")
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
