"""Publishes the messages of jobs that were just submitted. The relay publishes what this leaves out."""

import time

from jobs_service import events
from jobs_service.broker.redis import JobBroker, message_for
from jobs_service.errors import BrokerUnavailable
from jobs_service.events import MessageNotPublished
from jobs_service.jobs.lifecycle import NewJob, Submitted

#: Seconds that a queue is left to the relay after it was found full, or Redis did not answer.
CLOSED_SECONDS = 1.0

#: Seconds between two looks at a queue's length. In between, a queue may grow past its window.
COUNT_SECONDS = 0.25


class Publisher:
    """Sends messages as long as Redis answers and the queue's window has room. Thread-safe."""

    def __init__(self, broker: JobBroker) -> None:
        self.broker = broker
        #: By queue if Redis did not answer; by queue, type and priority if the window was full.
        self._closed_until: dict[object, float] = {}
        self._counted_at: dict[tuple[str, str, int], float] = {}

    def is_open(self, queue: str, job_type: str, priority: int) -> bool:
        """Return whether a message may be sent now. That is cheap, so a Redis that is away slows no submission."""
        now, line = time.monotonic(), (queue, job_type, priority)
        if now < self._closed_until.get(queue, 0) or now < self._closed_until.get(line, 0):
            return False
        if now - self._counted_at.get(line, 0) < COUNT_SECONDS:
            return True
        self._counted_at[line] = now
        return self._has_room(queue, job_type, priority)

    def publish(self, job: NewJob, submitted: Submitted) -> bool:
        """Send the job's message and return True, or False if the relay has to send it."""
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
