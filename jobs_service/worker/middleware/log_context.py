"""What every log line between a message's arrival and its last word says, a job type's own lines included."""

from uuid import UUID

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware
from dramatiq.worker import Worker

from jobs_service.observability import logs, tracing


class LogContext(Middleware):
    """Binds what the message tells; `attempt.begin` adds what the row tells, and begins the attempt's span.

    Its after-hook runs behind the verdict, so that the verdict's line and statement are still the attempt's.
    """

    def __init__(self, worker_id: UUID) -> None:
        self.worker_id = worker_id

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        logs.bind_anew(
            job_id=message.message_id,
            type=message.actor_name,
            queue=message.queue_name,
            worker_id=str(self.worker_id),
        )

    def after_process_message(
        self,
        broker: Broker,  # noqa: ARG002
        message: MessageProxy,  # noqa: ARG002
        *,
        result: object = None,  # noqa: ARG002
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        self._end()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        self._end()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        # The processes that Dramatiq forks end without exit handlers.
        tracing.stop()

    def _end(self) -> None:
        tracing.end_attempt()
        logs.bind_anew()
