"""One round: starts a system on a new database, runs the phases, and stops the system."""

import contextlib
import http.client
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import cpu, load
from bench.errors import Failed
from bench.observer import Observer
from bench.servers import Servers
from bench.systems import ROOT, Stack, System

#: Time for acknowledgements and other work after the last completed row, so that their CPU time is counted.
SETTLE_SECONDS = 0.3
LOOK_AGAIN_SECONDS = 0.001
#: What is measured unless something else is asked for.
PHASES = ("load", "single", "latency", "idle", "drain")
CLIENTS = "clients"
ALL_PHASES = (*PHASES, CLIENTS)
CLIENT_COUNTS = (4, 16, 64, 256, 400)
EXPECTED_FILE = b"key,value\nname,Alice\nscore,95\n"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    jobs: int = 2_000
    rounds: int = 3
    concurrency: int = 32
    samples: int = 10
    singles: int = 200
    pause_seconds: float = 1.0
    #: A stack counts as idle after this time without work.
    quiet_seconds: float = 2.0
    idle_seconds: float = 10.0
    phases: frozenset[str] = frozenset(PHASES)

    @property
    def warm_up_jobs(self) -> int:
        return max(self.jobs // 5, 2 * self.concurrency)


@dataclass
class Figures:
    """The results of one round of one system: values by name, and samples in milliseconds."""

    values: dict[str, float] = field(default_factory=dict)
    single_answer_ms: list[float] = field(default_factory=list)
    single_finish_ms: list[float] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)
    finish_ms: list[float] = field(default_factory=list)


@dataclass
class Round:
    """Runs the phases. Each adds to the figures."""

    plan: Plan
    stack: Stack
    observer: Observer
    say: Callable[[str], None]
    figures: Figures = field(default_factory=Figures)
    _jobs: int = 0

    def run(self) -> Figures:
        self.warm_up()
        for phase in ALL_PHASES:
            if phase in self.plan.phases:
                getattr(self, phase)()
        self._check_outputs()
        return self.figures

    def warm_up(self) -> None:
        self.say("warming up")
        self.work_off(self.plan.warm_up_jobs)

    def work_off(self, jobs: int) -> None:
        """Post jobs and wait until they are completed."""
        self._post(jobs)
        self._all_completed()

    def load(self) -> None:
        """Post jobs in a closed loop, end to end: once to count statements and commands, once to measure time."""
        self.say(f"{self.plan.warm_up_jobs:,} jobs, counted")
        self._count_load()
        self.say(f"{self.plan.jobs:,} jobs, timed")
        self._time_load()

    def _count_load(self) -> None:
        jobs = self.plan.warm_up_jobs
        self.observer.count_statements(on=True)
        start = self.observer.counts()
        with self.observer.watching_connections() as watch:
            self._post(jobs)
            self._all_completed()
        time.sleep(SETTLE_SECONDS)
        end = self.observer.counts()
        self.observer.count_statements(on=False)
        self.figures.values |= {
            "statements": (end.statements - start.statements) / jobs,
            "commits": self.observer.commits_between(start, end) / jobs,
            "redis commands": (end.redis_commands - start.redis_commands) / jobs,
            "redis reads": (end.redis_reads - start.redis_reads) / jobs,
            "connections": watch.most,
        }

    def _time_load(self) -> None:
        self.observer.checkpoint()
        before = cpu.seconds_by_group(self.stack.groups)
        answers = self._post(self.plan.jobs)
        seconds = self._all_completed() - answers["began_at"]
        time.sleep(SETTLE_SECONDS)
        self._note_cpu("cpu", before, scale=1000 / self.plan.jobs)
        self.figures.values |= {
            "rate": self.plan.jobs / seconds,
            "answer p50": percentile(answers["answer_seconds"], 50) * 1000,
            "answer p99": percentile(answers["answer_seconds"], 99) * 1000,
        }

    def _note_cpu(self, name: str, before: Mapping[str, float], *, scale: float) -> None:
        """Add the CPU time used since `before`, for each group and in total."""
        after = cpu.seconds_by_group(self.stack.groups)
        used = {group: (after[group] - before[group]) * scale for group in after}
        self.figures.values |= {f"{name} {group}": value for group, value in used.items()}
        self.figures.values[name] = sum(used.values())

    def single(self) -> None:
        """One client with one job at a time over one connection: the next is posted when the last is completed."""
        self.say(f"{self.plan.singles} jobs, one at a time")
        with contextlib.closing(self.stack.connect()) as connection:
            for _ in range(self.plan.singles):
                began_at = time.monotonic()
                job_id = self._submit(connection)
                self.figures.single_answer_ms.append((time.monotonic() - began_at) * 1000)
                self.figures.single_finish_ms.append(self._moved_at(job_id, "pending", "processing") - began_at * 1000)

    def clients(self) -> None:
        """Closed loops of few and of many clients: does the rate hold, and are all served alike?"""
        for clients in CLIENT_COUNTS:
            jobs = max(self.plan.jobs, clients)
            self.say(f"{jobs:,} jobs of {clients} clients")
            self.observer.checkpoint()
            answers = self._post(jobs, clients)
            seconds = self._all_completed() - answers["began_at"]
            p50, p99 = (percentile(answers["answer_seconds"], percent) for percent in (50, 99))
            self.figures.values |= {
                f"rate of {clients}": jobs / seconds,
                f"answer p50 of {clients}": p50 * 1000,
                f"answer p99 of {clients}": p99 * 1000,
                f"p99/p50 of {clients}": p99 / p50,
            }
        rates = [self.figures.values[f"rate of {clients}"] for clients in CLIENT_COUNTS]
        self.figures.values["lowest/best rate"] = min(rates) / max(rates)

    def latency(self) -> None:
        """Post single jobs after a pause. Measures from before the connection is opened until the row has changed."""
        self.say(f"{self.plan.samples} jobs after {self.plan.pause_seconds:g} s idle each")
        pauses = random.Random(0)
        for _ in range(self.plan.samples):
            # Random, so as not to be in phase with anything that polls at a fixed interval.
            time.sleep(self.plan.pause_seconds + pauses.uniform(0, 0.25))
            self._sample()

    def _sample(self) -> None:
        began_at = time.monotonic()
        with contextlib.closing(self.stack.connect()) as connection:
            job_id = self._submit(connection)
            self.figures.start_ms.append(self._moved_at(job_id, "pending") - began_at * 1000)
            self.figures.finish_ms.append(self._moved_at(job_id, "pending", "processing") - began_at * 1000)

    def _submit(self, connection: http.client.HTTPConnection) -> str:
        connection.request("POST", "/jobs", load.BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 201:
            raise Failed(f"the API answered: {response.status} {answer[:500]!r}")
        self._jobs += 1
        return json.loads(answer)["job_id"]

    def _moved_at(self, job_id: str, *states: str) -> float:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.observer.status(job_id) not in states:
                return time.monotonic() * 1000
            time.sleep(LOOK_AGAIN_SECONDS)
        raise Failed(f"job {job_id} stays {states[-1]}")

    def idle(self) -> None:
        """Measure CPU and memory of a stack without work."""
        self.say(f"idle for {self.plan.idle_seconds:g} s")
        time.sleep(self.plan.quiet_seconds)
        before = cpu.seconds_by_group(self.stack.groups)
        time.sleep(self.plan.idle_seconds)
        self._note_cpu("idle", before, scale=100 / self.plan.idle_seconds)
        self.figures.values["memory"] = cpu.mebibytes([*self.stack.groups["API"], *self.stack.groups["worker"]])

    def drain(self) -> None:
        """Measure the worker alone, on jobs posted while it was stopped."""
        self.say(f"{self.plan.jobs:,} jobs waiting, drained")
        self.stack.kill_worker()
        self._post(self.plan.jobs)
        self.stack.start_worker()
        started_at = self.observer.wait_until_started(self._jobs - self.plan.jobs + 1)
        self.figures.values["drain"] = self.plan.jobs / (self._all_completed() - started_at)

    def _post(self, jobs: int, clients: int | None = None) -> dict[str, Any]:
        arguments = [str(number) for number in (self.stack.port, jobs, clients or self.plan.concurrency)]
        ran = subprocess.run(
            [sys.executable, "-m", "bench.load", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise Failed(ran.stderr)
        self._jobs += jobs
        return json.loads(ran.stdout)

    def _all_completed(self) -> float:
        return self.observer.wait_until_completed(self._jobs)

    def _check_outputs(self) -> None:
        """Check that every job has written its file, with the expected content."""
        files = [path for path in self.stack.outputs.iterdir() if path.is_file()]
        wrong = [path.name for path in files if path.read_bytes() != EXPECTED_FILE]
        if wrong or not len(files) == self.observer.jobs() == self._jobs:
            raise Failed(f"{self._jobs} jobs, {self.observer.jobs()} rows, {len(files)} files, wrong: {wrong[:3]}")


def measure(system: System, plan: Plan, servers: Servers, folder: Path, say: Callable[[str], None]) -> Figures:
    """Run one round of one system on a new database, with its files in `folder`."""
    database = "bench"
    with Observer(servers, database) as observer, Stack(system, servers, database, folder) as stack:
        try:
            return Round(plan, stack, observer, say).run()
        except Failed as error:
            raise Failed(f"{system.name}: {error}\n{stack.log()}") from error


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
