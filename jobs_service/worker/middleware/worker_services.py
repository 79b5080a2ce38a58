"""Starts and ends what a worker process does beside running jobs: heartbeat, maintenance, watchdog, sampler."""

from collections import defaultdict
from threading import Thread

from dramatiq.broker import Broker, MessageProxy
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware
from dramatiq.worker import ConsumerThread, Worker

from jobs_service.broker.redis import JobBroker, QueueConsumer
from jobs_service.maintenance.leader import Maintenance
from jobs_service.orphans import end_with_parent
from jobs_service.worker.heartbeat import Heartbeat
from jobs_service.worker.sampler import Sampler
from jobs_service.worker.watchdog import Watchdog
from jobs_service.worker.work_queue import WorkQueue


class WorkerServices(Middleware):
    """The heartbeat begins before the first claim and ends after the last verdict."""

    def __init__(
        self, broker: JobBroker, heartbeat: Heartbeat, maintenance: Maintenance, watchdog: Watchdog, sampler: Sampler
    ) -> None:
        self.broker = broker
        self.heartbeat = heartbeat
        self.maintenance = maintenance
        self.watchdog = watchdog
        self.sampler = sampler
        self.work_queue = WorkQueue()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        worker.work_queue = self.work_queue  # before there are threads, which wait at the one that they are given
        self.heartbeat.start(queues=sorted(worker.consumer_whitelist or broker.get_declared_queues()))
        self.maintenance.start()
        self.watchdog.start(worker)
        # From here on the process may hold jobs, so it stops in order; the watchdog ends an orphan that cannot stop.
        end_with_parent()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        self.sampler.start(worker)

    # The threads' connections have these names in pg_stat_activity too.
    def after_worker_thread_boot(self, broker: Broker, thread: Thread) -> None:  # noqa: ARG002
        thread.name = "attempt"

    def after_consumer_thread_boot(self, broker: Broker, thread: ConsumerThread) -> None:  # noqa: ARG002
        thread.name = f"consumer of {thread.queue_name}"

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        self.watchdog.stop()
        self.broker.draining = True
        self.maintenance.stop()
        self._return_messages(worker)
        self._wake_threads(worker)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        self.watchdog.end()
        self.heartbeat.stop()
        self.sampler.stop()

    def _return_messages(self, worker: Worker) -> None:
        """Return messages that were popped and not begun at once, not after the last running job has ended."""
        messages: dict[str, list[MessageProxy]] = defaultdict(list)
        for item in iter_queue(worker.work_queue):
            messages[item.message.queue_name].append(item.message)
        for queue_name, proxies in messages.items():
            worker.consumers[queue_name].requeue_messages(proxies)

    def _wake_threads(self, worker: Worker) -> None:
        """Have idle threads end at once. Right after this Dramatiq tells its threads to end, and waits for them."""
        for thread in worker.workers:
            thread.stop()
        self.work_queue.close()
        for consumer_thread in worker.consumers.values():
            if isinstance(consumer_thread.consumer, QueueConsumer):
                consumer_thread.consumer.wake()
