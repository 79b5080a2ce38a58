"""Runs the programs of a worker and restarts those that end. Each `dramatiq` command has one process.

The `dramatiq` command with several processes ends all of them when one dies: a job that kills its process would then
stop the jobs of the others too.

This module imports little: `python -m jobs_service worker` becomes this program, which runs as long as the worker.
"""

import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

import msgspec
from structlog.stdlib import get_logger

from jobs_service.observability import logs
from jobs_service.orphans import end_with_parent

log = get_logger(module=__name__)

#: A program that ran for less than this is restarted after longer and longer pauses.
STABLE_SECONDS = 10.0
BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0)

#: At most so many seconds between two looks at the programs. A program's end and a signal are seen at once.
LOOK_SECONDS = 5.0
#: The same while they are ending.
END_LOOK_SECONDS = 0.2


class ProgramPlan(msgspec.Struct, frozen=True):
    """A program that is to run: its name, its command, and what its environment has beside the supervisor's."""

    name: str
    arguments: list[str]
    environ: dict[str, str]


class Plan(msgspec.Struct, frozen=True):
    """What `main` is given."""

    programs: list[ProgramPlan]
    kill_after_seconds: float
    log_format: str
    log_level: str
    #: Removed at the end.
    folder: str


class Program:
    """One program, restarted with a growing pause as long as it keeps ending early."""

    def __init__(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.environ = dict(environ)
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._early_ends = 0
        self._start_at = 0.0

    def check(self) -> None:
        """Note whether the program has ended, and start it if it is due."""
        if self.process is not None and self.process.poll() is not None:
            self._ended(self.process)
        if self.process is None and time.monotonic() >= self._start_at:
            self._start()

    @property
    def seconds_to_start(self) -> float:
        """The seconds until it is due; infinity while it runs."""
        return max(0.0, self._start_at - time.monotonic()) if self.process is None else math.inf

    def send(self, signum: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signum)

    def kill(self) -> None:
        """End it at once; its own processes end with it (`orphans.end_with_parent`)."""
        self.send(signal.SIGKILL)

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - no argument comes from outside
            self.arguments,
            env=self.environ,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - prctl only, before any thread
        )

    def _ended(self, process: "subprocess.Popen[bytes]") -> None:
        stable = time.monotonic() - self._started_at > STABLE_SECONDS
        self._early_ends = 0 if stable else self._early_ends + 1
        pause = BACKOFF_SECONDS[min(self._early_ends, len(BACKOFF_SECONDS) - 1)]
        self._start_at = time.monotonic() + pause
        self.process = None
        log.error("Worker program ended", program=self.name, code=process.returncode, restart_in_seconds=pause)


class Supervisor:
    """Keeps programs running until SIGTERM or SIGINT, which it passes on; a second one ends them at once.

    What has not ended after `kill_after_seconds` is killed.

    It passes SIGHUP on too: the programs finish their running jobs and restart, with the code as it is by then.
    """

    def __init__(self, programs: Sequence[Program], *, kill_after_seconds: float) -> None:
        self.programs = programs
        self.kill_after_seconds = kill_after_seconds
        self._signals = 0
        self._wakes = select.poll()
        self._woken = -1

    def run(self) -> int:
        """Return 0 once everything has ended after a signal."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_hangup)
        self._be_woken_by_signals()
        while not self._signals:
            for program in self.programs:
                if not self._signals:
                    program.check()
            self._reap_orphans()
            self._wait(min([LOOK_SECONDS, *(program.seconds_to_start for program in self.programs)]))
        self._end()
        return 0

    def _end(self) -> None:
        """Pass on each signal that came; not in its handler, which may run while a program is just being started."""
        passed_on, kill_at = 0, time.monotonic() + self.kill_after_seconds
        while any(program.is_alive for program in self.programs):
            for number in range(passed_on + 1, self._signals + 1):
                self._pass_on(number)
                passed_on = number
            if time.monotonic() > kill_at:
                self._kill()
            self._reap_orphans()
            self._wait(END_LOOK_SECONDS)

    def _be_woken_by_signals(self) -> None:
        """Have each signal end `_wait`, also one that comes just before it, and the end of each process be a signal."""
        self._woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakes.register(self._woken, select.POLLIN)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def _wait(self, seconds: float) -> None:
        """Return after so many seconds, or after a signal."""
        if self._wakes.poll(seconds * 1000):
            os.read(self._woken, 4_096)

    def _reap_orphans(self) -> None:
        """Have the kernel forget ended processes that this one did not start.

        As process 1 of a container it becomes the parent of whatever the jobs' code leaves running; an ended process
        stays in the table of processes until its parent has waited for it. `Program.check` waits for the programs.
        """
        if sys.platform == "linux":
            programs = {program.process.pid for program in self.programs if program.process is not None}
            with suppress(ChildProcessError):
                while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    if ended.si_pid in programs:
                        break  # it comes first until `Program.check` has waited for it; the next look goes on
                    os.waitpid(ended.si_pid, 0)

    def _pass_on(self, number: int) -> None:
        # Dramatiq's command takes a second SIGTERM as an order to end now.
        if number < 3:  # noqa: PLR2004
            for program in self.programs:
                program.send(signal.SIGTERM)
        else:
            self._kill()

    def _kill(self) -> None:
        for program in self.programs:
            program.kill()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals += 1

    def _on_hangup(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        for program in self.programs:
            program.send(signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Run the programs of a plan, in JSON, and return 0 once they have ended after a signal."""
    plan = msgspec.json.decode(arguments[0], type=Plan)
    logs.configure(form=plan.log_format, level=plan.log_level, service="worker")
    programs = [Program(each.name, each.arguments, os.environ | each.environ) for each in plan.programs]
    try:
        return Supervisor(programs, kill_after_seconds=plan.kill_after_seconds).run()
    finally:
        shutil.rmtree(plan.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
