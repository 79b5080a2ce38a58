"""Fields that every log line carries while a message is processed, the lines of a job's own code included."""

from uuid import UUID

from dramatiq.broker import Broker, MessageProxy
from dramatiq.middleware import Middleware
from dramatiq.worker import Worker

from jobs_service.observability import logs, tracing


class LogContext(Middleware):
    """Binds what the message says; `attempt.begin` adds what the row says, and begins the attempt's span.

    Its after-hook runs after the verdict, so that the verdict's log line and statement still belong to the attempt.
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
        # The processes that Dramatiq forks run no exit handlers.
        tracing.stop()

    def _end(self) -> None:
        tracing.end_attempt()
        logs.bind_anew()
