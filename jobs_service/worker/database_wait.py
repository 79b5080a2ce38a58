"""Waiting until PostgreSQL answers: an attempt that has done its work must not be lost because the database blinked."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

from structlog.stdlib import get_logger

from jobs_service.broker.redis import JobBroker
from jobs_service.errors import DatabaseUnavailable, SchemaUnavailable
from jobs_service.metrics import catalogue as metrics, observations

log = get_logger(module=__name__)

#: A restore or a migration passes. When it lasts longer, the code of this process does not fit the schema.
SCHEMA_PATIENCE_SECONDS = 600.0

#: Pauses between tries; the last one repeats.
DATABASE_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

T = TypeVar("T")


class DatabaseWait:
    """Repeats a transition until PostgreSQL answers, and measures how long that took."""

    def __init__(self, broker: JobBroker) -> None:
        self.broker = broker

    def until_answered(
        self, operation: str, write: Callable[[], T], *, until: float = math.inf, give_up_when_draining: bool = False
    ) -> T:
        """Call `write` until it does not raise `DatabaseUnavailable`, and return its answer.

        The lease bounds this: once another worker has the job, the answer is that no row changed. `until`, by the
        monotonic clock, bounds it too; so does a stop of this process, with `give_up_when_draining`. Then it raises
        `DatabaseUnavailable`; and `SchemaUnavailable` where a table has been missing for `SCHEMA_PATIENCE_SECONDS`.
        """
        tries, started = 0, time.perf_counter()
        while True:
            try:
                answer = write()
            except DatabaseUnavailable as error:
                metrics.STATE_SYNC_ERRORS.labels(operation).inc()
                is_over = time.monotonic() >= until or _is_hopeless(error, started)
                if is_over or (give_up_when_draining and self.broker.draining):
                    raise
                if tries == 0:
                    log.warning("PostgreSQL does not answer; waiting for it", error=str(error).strip())
                time.sleep(DATABASE_RETRY_SECONDS[min(tries, len(DATABASE_RETRY_SECONDS) - 1)])
                tries += 1
            else:
                observations.add(metrics.STATE_SYNC_DURATION.labels(operation), time.perf_counter() - started)
                return answer


def _is_hopeless(error: DatabaseUnavailable, started: float) -> bool:
    return isinstance(error, SchemaUnavailable) and time.perf_counter() - started > SCHEMA_PATIENCE_SECONDS
