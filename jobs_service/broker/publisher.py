"""Publishes jobs that were just submitted. What it leaves out, the relay publishes: the row says that it is due."""

import time

from jobs_service import events
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.circuit_breaker import CircuitBreaker
from jobs_service.errors import BrokerUnavailable
from jobs_service.jobs.lifecycle import NewJob, Submitted

#: Seconds during which a queue is left to the relay after it was found full, or Redis did not answer.
LEAVE_SECONDS = 1.0

#: Seconds between two checks of a queue's length. In between, a queue may briefly grow beyond its window.
COUNT_SECONDS = 0.25


class Publisher:
    """Sends messages while Redis answers and the queue's window has room. Thread-safe."""

    def __init__(self, broker: JobBroker) -> None:
        self.broker = broker
        #: By queue for a Redis that does not answer, by queue, type and priority for a window that is full.
        self._breakers: dict[object, CircuitBreaker] = {}
        self._counted_at: dict[tuple[str, str, int], float] = {}

    def may_publish(self, queue: str, job_type: str, priority: int) -> bool:
        """Tell whether to publish now. False is known without asking Redis: while it is down, submitting stays fast."""
        line = (queue, job_type, priority)
        if self._breaker(queue).refusal() or self._breaker(line).refusal():
            return False
        now = time.monotonic()
        if now - self._counted_at.get(line, 0) < COUNT_SECONDS:
            return True
        self._counted_at[line] = now
        return self._has_room(queue, job_type, priority)

    def publish(self, job: NewJob, submitted: Submitted) -> bool:
        """Send the job's message. False: it was not sent, and the relay has to."""
        message = message_for(job.id, job.type, job.queue, job.priority)
        try:
            self.broker.publish(job.queue, [(message, submitted.due_ms)])
        except BrokerUnavailable as error:
            self._redis_failed(job.queue, str(error))
            return False
        return True

    def _has_room(self, queue: str, job_type: str, priority: int) -> bool:
        try:
            is_full = self.broker.waiting_from(queue, job_type)[priority] >= self.broker.window
        except BrokerUnavailable as error:
            self._redis_failed(queue, str(error))
            return False
        if is_full:
            self._breaker((queue, job_type, priority)).open("the window is full")
        return not is_full

    def _redis_failed(self, queue: str, error: str) -> None:
        self._breaker(queue).open(error)
        self._counted_at.clear()
        events.emit(events.MessageNotPublished(queue=queue, error=error))

    def _breaker(self, key: object) -> CircuitBreaker:
        return self._breakers.get(key) or self._breakers.setdefault(key, CircuitBreaker(open_seconds=LEAVE_SECONDS))
