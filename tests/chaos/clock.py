"""A PostgreSQL whose clock a test can step, by libfaketime where it is installed (Debian's package `libfaketime`)."""

import os
from pathlib import Path

from jobs_service.devstack.servers import Postgres


def faketime():
    """Return libfaketime's file, or None where it is not installed. It is looked for beside the programs on PATH."""
    folders = [Path(folder).parent for folder in os.environ["PATH"].split(os.pathsep)]
    found = [path for folder in folders for path in folder.glob("lib/*/faketime/libfaketime.so.1")]
    return found[0] if found else None


class SteppedPostgres(Postgres):
    """All its processes have the same clock, which is `step` seconds off. Their timers run on as they did."""

    def __init__(self, folder, **options):
        super().__init__(folder, **options)
        self._offset = folder / "clock"

    def prepare(self):
        super().prepare()
        if not self._offset.exists():
            self._write(0)

    def environment(self):
        return {
            **os.environ,
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds):
        """Set the clock so many seconds off the true time. A running process sees it a second later."""
        self._write(seconds)

    def _write(self, seconds):
        # In one piece: a half-written offset would be another one.
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._offset)
