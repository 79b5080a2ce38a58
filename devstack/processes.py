"""Child processes: one session each, output in a file, ended by their own ids, not outliving us."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: Seconds between two looks at a condition: short beside a server's start, long beside the look itself.
_GLANCE = 0.02
#: Seconds that the kernel may take to end a killed process.
_KILL_SECONDS = 10.0

#: Called again and again while something is waited for; may raise to give up.
Tick = Callable[[], None]


def idle() -> None:
    """Do nothing while waiting."""


def wait_until(holds: Callable[[], bool], seconds: float, tick: Tick = idle) -> bool:
    """Wait for a condition. Returns whether it came to hold in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        tick()
        time.sleep(_GLANCE)
    return True


class Child:
    """A program started in a session of its own, so that Ctrl-C in the terminal reaches us only.

    Where the machine has `setpriv` (any Linux) it gets `death_signal` when the thread that started it ends, so even
    a killed parent leaves nothing behind. `privileges` are further arguments for `setpriv`.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
        privileges: Sequence[str] = (),
    ) -> None:
        self.log = log
        #: Where this run's part of the log begins.
        self.log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                _arranged(argv, death_signal, privileges),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        self._swept = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return None while it runs, then its code, or the negative number of the signal that ended it.

        Once it has ended, what is left of its process group is ended too: a service is over with its leader.
        """
        code = self._process.poll()
        if code is not None and not self._swept:
            self._swept = True
            _kill_group(self.pid)
        return code

    @property
    def running(self) -> bool:
        return self.exit_code() is None

    def pids(self) -> list[int]:
        """Return its id and those of all its descendants."""
        return [self.pid, *descendants(self.pid)] if self.running else []

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the leader alone; it knows how to tell the others."""
        self._process.send_signal(signal_number)

    def stop(self, *, with_signal: signal.Signals = signal.SIGTERM, seconds: float, tick: Tick = idle) -> int:
        """Ask it to end, wait, and kill it if it takes longer than `seconds`. Returns its exit code."""
        if self.running:
            self.resume()
            self.send(with_signal)
            wait_until(lambda: not self.running, seconds, tick)
        return self.kill()

    def kill(self) -> int:
        """End it and all its descendants at once, as a power cut would. Returns its exit code."""
        pids: list[int] = []
        if self.running:
            self.send(signal.SIGSTOP)  # or it could start another one while we look
            pids = self.pids()
            for pid in pids:
                _signal(pid, signal.SIGKILL)
        code = self._process.wait(_KILL_SECONDS)
        self.exit_code()
        # PostgreSQL's processes have groups of their own, and hold its shared memory until they are gone.
        wait_until(lambda: not _group_is_alive(self.pid) and not any(map(is_alive, pids)), _KILL_SECONDS)
        return code

    def pause(self) -> None:
        """Stop it and all its descendants in mid-step, as a frozen machine would."""
        for pid in self.pids():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of what it wrote in this run."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for each in found:  # grows while we walk it
        found.extend(children.get(each, []))
    return found


def is_alive(pid: int) -> bool:
    """Say whether a process of this number runs. One that has ended and waits to be collected does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        pass
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def command_line(pid: int) -> str:
    """Return how a process was started, or "" when there is none or it cannot be told."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _arranged(
    argv: Sequence[str | os.PathLike[str]], death_signal: signal.Signals, privileges: Sequence[str]
) -> list[str]:
    command = [os.fspath(part) for part in argv]
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return command
    return [setpriv, "--pdeathsig", death_signal.name.removeprefix("SIG"), *privileges, "--", *command]


def _groups() -> list[tuple[int, int]]:
    """Return (process, its group) for every process, on Linux."""
    return [(pid, int(fields[2])) for pid, fields in _stats()]


def _parents() -> list[tuple[int, int]]:
    """Return (process, its parent) for every process."""
    if not Path("/proc/self").exists():
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True)  # noqa: S607
        numbers = [int(word) for word in listing.stdout.split()]
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    return [(pid, int(fields[1])) for pid, fields in _stats()]


def _stats() -> list[tuple[int, list[str]]]:
    """Return what Linux says of every process: its state, its parent, its group and so on."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended while we looked
            # The name, in parentheses, may hold spaces and parentheses itself.
            found.append((int(stat.parent.name), stat.read_text().rpartition(")")[2].split()))
    return found


def _signal(pid: int, signal_number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _group_is_alive(group: int) -> bool:
    """Say whether a process of the group runs. Those that have ended may wait for seconds until init collects them."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of processes that have all ended
        return False
    if not Path("/proc/self").exists():
        return True
    return any(is_alive(pid) for pid, its_group in _groups() if its_group == group)
