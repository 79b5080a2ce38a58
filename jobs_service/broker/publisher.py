"""Publishes jobs that were just submitted. What it leaves out, the relay publishes: the row says that it is due."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from dramatiq.message import Message

from jobs_service import events
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.circuit_breaker import CircuitBreaker
from jobs_service.errors import BrokerUnavailable
from jobs_service.jobs.lifecycle import Changed, NewJob, Submitted

#: Seconds during which a queue is left to the relay after it was found full, or Redis did not answer.
LEAVE_SECONDS = 1.0

#: Seconds between two checks of a queue's length. In between, a queue may briefly grow beyond its window.
COUNT_SECONDS = 0.25

#: The key of the breaker for all queues: the server itself does not answer.
_SERVER = None


class Publisher:
    """Sends messages while Redis answers and the queue's window has room. Thread-safe."""

    def __init__(self, broker: JobBroker) -> None:
        self.broker = broker
        #: By queue for one whose keys Redis refuses, by queue, type and priority for a window that is full.
        self._breakers: dict[object, CircuitBreaker] = {}
        self._counted_at: dict[tuple[str, str, int], float] = {}

    def may_publish(self, queue: str, job_type: str, priority: int) -> bool:
        """Tell whether to publish now. False is known without asking Redis: while it is down, submitting stays fast."""
        line = (queue, job_type, priority)
        if any(self._breaker(key).refusal() for key in (_SERVER, queue, line)):
            return False
        now = time.monotonic()
        if now - self._counted_at.get(line, 0) < COUNT_SECONDS:
            return True
        self._counted_at[line] = now
        return self._has_room(queue, job_type, priority)

    def room(self, queue: str, job_type: str, priority: int) -> int:
        """Return how many messages may be published now: as many as the window has room for, 0 while Redis is away."""
        if any(self._breaker(key).refusal() for key in (_SERVER, queue)):
            return 0
        return self._room(queue, job_type, priority) or 0

    def publish(self, jobs: Iterable[tuple[NewJob, Submitted]]) -> dict[str, str]:
        """Send the messages of jobs, those of a queue together.

        Return for each queue whose messages were not sent the reason. The relay has to send them, and the caller
        announces it.
        """
        messages: dict[str, list[tuple[Message[Any], float]]] = defaultdict(list)
        for job, submitted in jobs:
            messages[job.queue].append((message_for(job.id, job.type, job.queue, job.priority), submitted.due_ms))
        return {queue: error for queue, due in messages.items() if (error := self._send(queue, due))}

    def move(self, job: Changed, *, former_priority: int) -> None:
        """Move the message of a job whose `run_at` or priority has changed.

        If Redis does not answer, the job may run at its former place: its row says whether it may be claimed.
        """
        former = message_for(job.job_id, job.type, job.queue, former_priority)
        message = message_for(job.job_id, job.type, job.queue, job.priority)
        try:
            self.broker.replace(job.queue, [former], message, job.due_ms if job.is_due else None)
        except BrokerUnavailable as error:
            events.emit(events.MessageNotPublished(queue=job.queue, error=str(error)))

    def _send(self, queue: str, messages: Sequence[tuple[Message[Any], float]]) -> str:
        """Return "", or why the messages were not sent."""
        # One queue may just have found that Redis is away: the others need not wait for that once more.
        if error := self._breaker(_SERVER).refusal():
            return error
        try:
            self.broker.publish(queue, messages)
        except BrokerUnavailable as unavailable:
            self._redis_failed(queue, unavailable)
            return str(unavailable) or type(unavailable).__name__
        return ""

    def _has_room(self, queue: str, job_type: str, priority: int) -> bool:
        room = self._room(queue, job_type, priority)
        if room == 0:
            self._breaker((queue, job_type, priority)).open("the window is full")
        return bool(room)

    def _room(self, queue: str, job_type: str, priority: int) -> int | None:
        """Return how much room the window has, None if Redis does not say."""
        try:
            waiting = self.broker.waiting_from(queue, job_type)[priority]
        except BrokerUnavailable as error:
            self._redis_failed(queue, error)
            events.emit(events.MessageNotPublished(queue=queue, error=str(error)))
            return None
        return max(0, self.broker.window - waiting)

    def _redis_failed(self, queue: str, error: BrokerUnavailable) -> None:
        is_away = isinstance(error.__cause__, redis.ConnectionError | redis.TimeoutError)
        self._breaker(_SERVER if is_away else queue).open(str(error))
        self._counted_at.clear()

    def _breaker(self, key: object) -> CircuitBreaker:
        return self._breakers.get(key) or self._breakers.setdefault(key, CircuitBreaker(open_seconds=LEAVE_SECONDS))
