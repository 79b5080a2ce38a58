"""Submitting many jobs at once: one transaction, a statement for each few hundred of them.

A batch has a thread of its own, and takes a connection that no single job waits for. Everything here blocks.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from uuid import uuid4

from jobs_service import events
from jobs_service.broker.publisher import Publisher
from jobs_service.database.connection import Database
from jobs_service.errors import IdempotencyConflict, InvalidBatch, InvalidRequest, MalformedBody
from jobs_service.failpoints import failpoint
from jobs_service.ids import STEP_SECONDS
from jobs_service.jobs import idempotency, lifecycle
from jobs_service.jobs.correlation import Origin
from jobs_service.jobs.idempotency import KeptAnswer, Key, Once
from jobs_service.jobs.lifecycle import NewJob, Submitted
from jobs_service.metrics import observations
from jobs_service.metrics.catalogue import PAYLOAD_BYTES
from jobs_service.observability import logs
from jobs_service.submission.submit import EXPIRED, Submission, Submitter, counted_errors
from jobs_service.submission.writer import JobWriter, Written

#: How many jobs a batch may have.
MAX_JOBS = 10_000

#: How many jobs one statement writes, and one pipeline publishes.
PIECE = 500

#: How many of its invalid jobs an error names.
MAX_PROBLEMS = 100

#: How many jobs are checked, about 2 ms, before the thread lets the event loop have Python's lock. Otherwise the loop
#: would have to wait for 5 ms each time.
_AT_ONCE = 64

#: What came of each job, in the order of the batch.
Outcomes = Sequence[NewJob | InvalidRequest]


class Batch(NamedTuple):
    """A batch as it is to be submitted."""

    #: Each job, or what is wrong with it. Raises `InvalidRequest` for what is wrong with the body as a whole.
    items: Iterable[Submission | InvalidRequest]
    origin: Origin
    #: Submit all jobs or none. If not, the valid ones are submitted.
    is_atomic: bool
    key: Key | None
    #: Makes the answer.
    answer: Callable[[Outcomes], KeptAnswer]


class BatchSubmitter:
    """Submits batches. One for a process."""

    def __init__(self, database: Database, publisher: Publisher, submitter: Submitter) -> None:
        self.database = database
        self.publisher = publisher
        self.submitter = submitter
        self.writer = JobWriter(database, publisher)

    def submit(self, batch: Batch) -> tuple[KeptAnswer, bool]:
        """Commit the jobs, then publish them. Return the answer, and whether it is an earlier one of the same key.

        Raises `InvalidRequest`, `InvalidBatch`, `QueueFull`, `IdempotencyConflict` and `DatabaseUnavailable`.
        """
        with counted_errors():
            outcomes = self._checked(batch)
            self._check_room(outcomes)
            written = self.database.in_one_transaction(_Transaction(self.database, batch, outcomes).carry_out)
        if isinstance(written, IdempotencyConflict):
            raise written
        if isinstance(written, KeptAnswer):
            return written, True
        failpoint("api.after_commit")
        self._publish(written.jobs)
        return written.answer, False

    def _check_room(self, outcomes: Outcomes) -> None:
        queues = Counter(outcome.queue for outcome in outcomes if isinstance(outcome, NewJob))
        for queue, jobs in queues.items():
            self.submitter.queue_limits.check(queue, jobs)

    def _checked(self, batch: Batch) -> Outcomes:
        """Return the jobs that are to be written. Ids follow each other like the jobs in the batch."""
        now = self.writer.time.now()
        outcomes: list[NewJob | InvalidRequest] = []
        invalid, windows = _Invalid(), _Windows(self.publisher)
        for index, item in enumerate(batch.items):
            if index == MAX_JOBS:
                raise InvalidRequest(f"send at most {MAX_JOBS} jobs in a batch")
            outcome = self._new_job(item, batch.origin, windows, now + index * STEP_SECONDS)
            if isinstance(outcome, InvalidRequest) and batch.is_atomic:
                invalid.add(index, outcome)
            outcomes.append(outcome)
            if index % _AT_ONCE == 0:
                time.sleep(0)
        if not outcomes:
            raise InvalidRequest("send at least one job")
        invalid.raise_any()
        return outcomes

    def _new_job(
        self, item: Submission | InvalidRequest, origin: Origin, windows: "_Windows", now: float
    ) -> NewJob | InvalidRequest:
        if isinstance(item, InvalidRequest):
            return item
        try:
            return self.submitter.new_job(item, origin, now=now, may_publish=windows.take)
        except InvalidRequest as error:
            return error

    def _publish(self, jobs: Sequence[tuple[NewJob, Submitted]]) -> None:
        for start in range(0, len(jobs), PIECE):
            piece = jobs[start : start + PIECE]
            written = self.writer.publish([job for job, _ in piece], [submitted for _, submitted in piece])
            with logs.batched():
                _announce([job for job, _ in piece], written)


class _Result(NamedTuple):
    answer: KeptAnswer
    jobs: Sequence[tuple[NewJob, Submitted]]


class _Transaction:
    """Writes a batch. It may be carried out twice: then it finds what it has written."""

    def __init__(self, database: Database, batch: Batch, outcomes: Outcomes) -> None:
        self.database = database
        self.batch = batch
        self.outcomes = outcomes
        self.token = uuid4()

    def carry_out(self) -> _Result | KeptAnswer | IdempotencyConflict:
        key = self.batch.key
        if key is not None and (earlier := idempotency.begin(self.database, key, self.token)) is not None:
            return earlier
        written = {job.id: (job, submitted) for job, submitted in self._write()}
        outcomes = [
            self._outcome(outcome, written[outcome.id][1]) if isinstance(outcome, NewJob) else outcome
            for outcome in self.outcomes
        ]
        self._refuse_expired(outcomes)
        answer = self.batch.answer(outcomes)
        if key is not None:
            idempotency.finish(self.database, Once(key, self.token, answer))
        return _Result(answer, [pair for pair in written.values() if not pair[1].is_expired])

    def _write(self) -> Iterator[tuple[NewJob, Submitted]]:
        jobs = [outcome for outcome in self.outcomes if isinstance(outcome, NewJob)]
        for start in range(0, len(jobs), PIECE):
            piece = jobs[start : start + PIECE]
            yield from zip(piece, lifecycle.submit(self.database, piece), strict=True)

    def _outcome(self, job: NewJob, submitted: Submitted) -> NewJob | InvalidRequest:
        return InvalidRequest(EXPIRED, pointer="/expires_at") if submitted.is_expired else job

    def _refuse_expired(self, outcomes: Outcomes) -> None:
        invalid = _Invalid()
        for index, outcome in enumerate(outcomes):
            if self.batch.is_atomic and isinstance(outcome, InvalidRequest):
                invalid.add(index, outcome)
        invalid.raise_any()


class _Invalid:
    """The invalid jobs of a batch of which all or none are submitted."""

    def __init__(self) -> None:
        self.count = 0
        self.problems: list[tuple[str, str]] = []

    def add(self, index: int, error: InvalidRequest) -> None:
        """Note an invalid job. Raises it, with the job's index, if it is not even JSON."""
        pointer = f"/{index}{error.pointer}"
        if isinstance(error, MalformedBody):
            raise MalformedBody(error.detail, pointer=pointer)
        self.count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append((pointer, error.detail))

    def raise_any(self) -> None:
        if self.problems:
            raise InvalidBatch(self.problems, invalid=self.count)


class _Windows:
    """How much room the lines in Redis have for a batch. The relay publishes the rest of it, in its order."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._rooms: dict[tuple[str, str, int], int] = {}

    def take(self, queue: str, job_type: str, priority: int) -> bool:
        """Take the place of one message. False: there is none."""
        line = (queue, job_type, priority)
        room = self._rooms.get(line)
        if room is None:
            room = self._publisher.room(*line)
        self._rooms[line] = room - 1
        return room > 0


def _announce(jobs: Sequence[NewJob], written: Sequence[Written]) -> None:
    for queue, error in {(job.queue, answer.publish_error) for job, answer in zip(jobs, written, strict=True)}:
        if error:
            events.emit(events.MessageNotPublished(queue=queue, error=error))
    for job in jobs:
        observations.add(PAYLOAD_BYTES.labels(), len(job.payload.encode()))
        events.emit(events.JobSubmitted(job_id=str(job.id), type=job.type, queue=job.queue))
