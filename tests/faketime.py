"""A PostgreSQL whose clock the test sets: by libfaketime, named by TEST_FAKETIME, or installed. Its timers go on."""

import os
from pathlib import Path

import pytest

from devstack.servers import Postgres

_INSTALLED = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

FAKETIME = os.environ.get("TEST_FAKETIME") or (str(_INSTALLED[0]) if _INSTALLED else None)

needs_faketime = pytest.mark.skipif(not FAKETIME, reason="libfaketime is neither installed nor named by TEST_FAKETIME")


class ClockedPostgres(Postgres):
    """Its clock is the machine's until `set_clock`."""

    @property
    def _offset(self):
        return self.folder / "clock"

    def prepare(self):
        super().prepare()
        self.set_clock(0)

    def set_clock(self, seconds):
        """Have the clock be so many seconds ahead of the machine's from now on, for all its processes."""
        fresh = self._offset.with_suffix(".fresh")
        fresh.write_text(f"{seconds:+d}\n")
        # In one step: a process that reads it meanwhile finds the old one or the new one.
        fresh.rename(self._offset)

    def environment(self):
        return {
            **os.environ,
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
