"""Writes what the attempts of a worker process say: all together, about once a second, and before their verdicts."""

import time
from threading import Event, Lock, Thread

from structlog.stdlib import get_logger

from jobs_service.database.connection import Database
from jobs_service.errors import PostgresError
from jobs_service.jobs import notes
from jobs_service.jobs.notes import AttemptNotes

log = get_logger(module=__name__)

#: Seconds between two statements of a process whose jobs go on saying something.
INTERVAL_SECONDS = 1.0


class NoteWriter:
    """One thread, which begins with the first note. A process whose jobs say nothing sends nothing."""

    def __init__(self, database: Database) -> None:
        self.database = database
        #: The attempts that have said something since they were written, by lease token.
        self._changed: dict[object, AttemptNotes] = {}
        self._lock = Lock()
        #: Held while a statement is sent, so that who comes meanwhile shares the next one.
        self._writing = Lock()
        self._wake = Event()
        self._has_begun = False
        self._is_failing = False

    def add(self, changed: AttemptNotes) -> None:
        """Have an attempt's notes written soon."""
        with self._lock:
            self._changed[changed.lease] = changed
            is_first, self._has_begun = not self._has_begun, True
        self._wake.set()
        if is_first:
            Thread(target=self._run, name="notes", daemon=True).start()

    def flush(self, ended: AttemptNotes | None = None) -> None:
        """Write what has been said; nothing if `ended` has been written already. An attempt's last chance.

        Where PostgreSQL does not answer, an attempt that has ended loses what it said last.
        """
        if ended is not None and ended.written is ended.state:
            return
        with self._writing:
            with self._lock:
                taken, self._changed = list(self._changed.values()), {}
            states = [(each, each.state) for each in taken if each.written is not each.state]
            if states:
                self._write(states)

    def _write(self, states: list[tuple[AttemptNotes, notes.NotesState]]) -> None:
        try:
            notes.write(self.database, states)
        except PostgresError as error:
            if not self._is_failing:
                log.warning("Notes of attempts not written", attempts=len(states), error=str(error).strip())
            self._is_failing = True
            with self._lock:
                self._changed = {each.lease: each for each, _ in states} | self._changed
        else:
            self._is_failing = False

    def forget(self, ended: AttemptNotes) -> None:
        """Write nothing more of an attempt."""
        with self._lock:
            self._changed.pop(ended.lease, None)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                self.flush()
            except Exception:
                # A note that cannot be written must not keep others from being written.
                log.exception("Notes of attempts not written")
            time.sleep(INTERVAL_SECONDS)
