"""Rings for jobs that were just accepted. What it leaves out, the relay catches up with: the row says so."""

import time

from jobs_service import events
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.errors import BrokerUnavailable
from jobs_service.events import MessageNotPublished
from jobs_service.jobs.lifecycle import NewJob, Submitted

#: Seconds a queue is left to the relay after it was found full, or Redis silent.
CLOSED_SECONDS = 1.0

#: Seconds between two looks at a queue's length. In that time a queue may grow past its window, but not for long.
COUNT_SECONDS = 0.25


class Publisher:
    """Sends messages as long as Redis answers and the queue's window has room. Thread-safe."""

    def __init__(self, broker: JobBroker) -> None:
        self.broker = broker
        #: By queue when Redis is silent, by queue, type and priority when the window is full.
        self._closed_until: dict[object, float] = {}
        self._counted_at: dict[tuple[str, str, int], float] = {}

    def is_open(self, queue: str, job_type: str, priority: int) -> bool:
        """Tell whether a message may be sent now. False costs nothing, so a dead Redis does not slow submissions."""
        now, line = time.monotonic(), (queue, job_type, priority)
        if now < self._closed_until.get(queue, 0) or now < self._closed_until.get(line, 0):
            return False
        if now - self._counted_at.get(line, 0) < COUNT_SECONDS:
            return True
        self._counted_at[line] = now
        return self._has_room(queue, job_type, priority)

    def publish(self, job: NewJob, submitted: Submitted) -> bool:
        """Send the job's message. False: the relay has to."""
        message = message_for(job.id, job.type, job.queue, job.priority)
        try:
            self.broker.publish(job.queue, [(message, submitted.due_ms)])
        except BrokerUnavailable as error:
            self._close(job.queue, str(error))
            return False
        return True

    def _has_room(self, queue: str, job_type: str, priority: int) -> bool:
        try:
            full = self.broker.waiting_from(queue, job_type)[priority] >= self.broker.window
        except BrokerUnavailable as error:
            self._close(queue, str(error))
            return False
        if full:
            self._closed_until[queue, job_type, priority] = time.monotonic() + CLOSED_SECONDS
        return not full

    def _close(self, queue: str, error: str) -> None:
        self._closed_until[queue] = time.monotonic() + CLOSED_SECONDS
        self._counted_at.clear()
        events.emit(MessageNotPublished(queue=queue, error=error))
