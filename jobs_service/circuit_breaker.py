"""Stops calls to a server that does not answer, so that they fail at once instead of waiting for it.

For servers of the service itself, within a process. The table `servers` is for those that job code calls: all processes
share it, and jobs wait for a server in it.
"""

import time


class CircuitBreaker:
    """Closed while the server answers; open, so that calls are refused, for `open_seconds` after a failure.

    Then one caller tries the server for all. While it does, the others are refused for `trial_seconds` at most; where
    that is 0, all may try. It takes no lock: of two callers at the same instant, both may try.
    """

    def __init__(self, *, open_seconds: float, trial_seconds: float = 0.0) -> None:
        self.open_seconds = open_seconds
        self.trial_seconds = trial_seconds
        #: The last failure, "" if the server has answered since.
        self._reason = ""
        self._open_until = 0.0

    def refusal(self) -> str:
        """Return the failure for which calls are refused now, or ""."""
        return self._reason if time.monotonic() < self._open_until else ""

    def admit(self) -> str:
        """Return "" to let the caller try, else the failure for which it is refused.

        A caller that may try says how it went: `close`, `open` or `end_trial`.
        """
        if (reason := self.refusal()) or not self._reason:
            return reason
        self._open_until = time.monotonic() + self.trial_seconds
        return ""

    def open(self, reason: str) -> None:
        """Refuse calls from now on: the server failed."""
        self._open_until = time.monotonic() + self.open_seconds
        self._reason = reason or "no reason was given"

    def end_trial(self) -> None:
        """Let the next caller try in `open_seconds` at most: a call ended without showing how the server is."""
        self._open_until = min(self._open_until, time.monotonic() + self.open_seconds)

    def close(self) -> None:
        """Let every call through: the server answered."""
        self._reason = ""
