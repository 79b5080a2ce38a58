"""Child processes: each has its own session, logs to a file, and ends with this process."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: Seconds between two checks of a condition: short compared with a server's start, long compared with the check.
_GLANCE = 0.02
#: Seconds that the kernel may take to end a killed process.
_KILL_SECONDS = 10.0

#: Called repeatedly while waiting. It may raise to give up.
Tick = Callable[[], None]


def idle() -> None:
    """Do nothing while waiting."""


def wait_until(holds: Callable[[], bool], seconds: float, tick: Tick = idle) -> bool:
    """Wait for a condition. Return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        tick()
        time.sleep(_GLANCE)
    return True


class Child:
    """A program started in a session of its own, so that Ctrl-C in the terminal only reaches this process.

    If the machine has `setpriv` (any Linux), the program gets `death_signal` when the thread that started it ends, even
    if this process is killed. `privileges` are further arguments for `setpriv`.
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
        #: The offset in the log at which this run begins.
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
        """Return None while it runs, then its exit code, or the negative number of the signal that ended it.

        Once it has ended, the rest of its process group is killed.
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
        """Send a signal to the program itself, which passes it on to its own children as needed."""
        self._process.send_signal(signal_number)

    def stop(self, *, with_signal: signal.Signals = signal.SIGTERM, seconds: float, tick: Tick = idle) -> int:
        """Ask it to end, wait, and kill it if it takes longer than `seconds`. Returns its exit code."""
        if self.running:
            self.resume()
            self.send(with_signal)
            wait_until(lambda: not self.running, seconds, tick)
        return self.kill()

    def kill(self) -> int:
        """Kill it and all its descendants at once, as a power failure would. Return its exit code."""
        pids: list[int] = []
        if self.running:
            self.send(signal.SIGSTOP)  # so that it cannot start another process meanwhile
            pids = self.pids()
            for pid in pids:
                _signal(pid, signal.SIGKILL)
        code = self._process.wait(_KILL_SECONDS)
        self.exit_code()
        # PostgreSQL's processes have groups of their own, and hold its shared memory until they have ended.
        wait_until(lambda: not _group_is_alive(self.pid) and not any(map(is_alive, pids)), _KILL_SECONDS)
        return code

    def pause(self) -> None:
        """Stop it and all its descendants with SIGSTOP, as if the machine were frozen."""
        for pid in self.pids():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.pids():
            _signal(pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log, of this run only."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for each in found:  # grows during the loop
        found.extend(children.get(each, []))
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process with this id is running. A zombie is not."""
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
    """Return the command line of a process, or "" if there is none or it cannot be read."""
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
    """Return (process id, group id) of every process. Linux only."""
    return [(pid, int(fields[2])) for pid, fields in _stats()]


def _parents() -> list[tuple[int, int]]:
    """Return (process id, parent's id) of every process."""
    if not Path("/proc/self").exists():
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True)  # noqa: S607
        numbers = [int(word) for word in listing.stdout.split()]
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    return [(pid, int(fields[1])) for pid, fields in _stats()]


def _stats() -> list[tuple[int, list[str]]]:
    """Return the id of every process and its fields in /proc/PID/stat from the state on. Linux only."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            # The name, in parentheses, may itself contain spaces and parentheses.
            found.append((int(stat.parent.name), stat.read_text().rpartition(")")[2].split()))
    return found


def _signal(pid: int, signal_number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _group_is_alive(group: int) -> bool:
    """Tell whether a process of the group is running. Zombies may remain for seconds until init collects them."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # on macOS, if all processes of the group have ended
        return False
    if not Path("/proc/self").exists():
        return True
    return any(is_alive(pid) for pid, its_group in _groups() if its_group == group)
