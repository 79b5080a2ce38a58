"""What a run of checks tells: a line each, and the sum at the end."""

import sys
import time
from collections.abc import Callable


class CheckError(Exception):
    """A check found something else than it should."""


def expect(wanted: object, actual: object, what: str = "") -> None:
    if wanted != actual:
        raise CheckError(f"{what + ': ' if what else ''}expected {wanted!r}, got {actual!r}")


def expect_in(part: str, whole: str) -> None:
    if part not in whole:
        raise CheckError(f"{part!r} is not in {whole[-600:]!r}")


def eventually(look: Callable[[], object], *, seconds: float, every: float = 0.5) -> object:
    """Look until there is something to see, and return it. Raises what the last look raised."""
    end = time.monotonic() + seconds
    while True:
        try:
            if seen := look():
                return seen
            problem = CheckError(f"still nothing after {seconds:g} s")
        except (CheckError, OSError, ValueError) as error:
            problem = error
        if time.monotonic() > end:
            raise problem
        time.sleep(every)


class Report:
    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self._started = time.monotonic()

    def run(self, sentence: str, check: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever a check meets, the next one is still worth running
            self.fail(sentence, error)
            return
        self.passed += 1
        say(f"ok      {sentence} ({time.monotonic() - started:.1f} s)")

    def fail(self, sentence: str, error: Exception) -> None:
        self.failed += 1
        say(f"FAILED  {sentence}: {type(error).__name__}: {error}")

    def end(self) -> int:
        """Print the sum, and return the exit code."""
        say(f"{self.passed} passed, {self.failed} failed in {time.monotonic() - self._started:.0f} s")
        return 1 if self.failed else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
