"""Measures a worker process from inside, every few seconds: its threads, its attempts, its CPU, memory and files."""

import contextlib
import os
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread

from dramatiq.worker import Worker
from structlog.stdlib import get_logger

from jobs_service.metrics import catalogue as metrics, observations
from jobs_service.worker.attempt import RunningAttempts
from jobs_service.worker.middleware.attempt_metrics import AttemptMetrics

log = get_logger(module=__name__)

INTERVAL_SECONDS = 2.0

_MEMORY = Path("/proc/self/statm")
_FDS = Path("/proc/self/fd")


class Sampler:
    """A thread that sets the gauges `jobs_worker_…`."""

    def __init__(self, attempts: RunningAttempts, attempt_metrics: AttemptMetrics) -> None:
        self.attempts = attempts
        self.attempt_metrics = attempt_metrics
        self._stopping = Event()
        self._thread: Thread | None = None
        #: When the thread last began a sample, by the monotonic clock.
        self.last_turn = time.monotonic()
        self._started_at = time.time()
        self._cpu_seconds = 0.0
        #: The jobs that may have run here, as (queue, type): their gauges go back to 0.
        self._seen: set[tuple[str, str]] = set()

    def start(self, worker: Worker) -> None:
        self._seen = {(actor.queue_name, actor.actor_name) for actor in worker.broker.actors.values()}
        self._thread = Thread(target=self._run, args=(worker,), name="sampler", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the thread runs or has yet to start, which it does once the worker's own threads exist."""
        return self._thread is None or self._thread.is_alive()

    def stop(self) -> None:
        """End the thread and write what this process has observed to its file: the process ends next."""
        self._stopping.set()
        observations.write()

    def sample(self, worker: Worker) -> None:
        """Set every gauge."""
        self._threads(worker)
        self._attempts()
        self._process()

    def _run(self, worker: Worker) -> None:
        while True:
            self.last_turn = time.monotonic()
            try:
                self.sample(worker)
            except Exception:
                # Without the line, the gauges would keep their last values and nothing would say why.
                log.exception("Worker process not sampled")
            if self._stopping.wait(INTERVAL_SECONDS):
                break

    def _threads(self, worker: Worker) -> None:
        metrics.THREADS.labels().set(len(worker.workers))
        metrics.THREADS_BUSY.labels().set(len(self.attempt_metrics.busy))
        metrics.PREFETCHED.labels().set(worker.work_queue.qsize())
        for queue, consumer in worker.consumers.items():
            metrics.CONSUMERS.labels(queue).set(consumer.is_alive())

    def _attempts(self) -> None:
        running: Counter[tuple[str, str]] = Counter()
        oldest: dict[tuple[str, str], float] = {}
        for attempt in self.attempts:
            job = (attempt.claim.queue, attempt.claim.type)
            running[job] += 1
            oldest[job] = max(oldest.get(job, 0.0), attempt.seconds)
        self._seen |= running.keys()
        for job in self._seen:
            metrics.RUNNING.labels(*job).set(running[job])
            metrics.OLDEST_RUNNING.labels(*job).set(oldest.get(job, 0.0))

    def _process(self) -> None:
        metrics.HEARTBEAT.labels().set(time.time())
        metrics.START_TIME.labels().set(self._started_at)
        used = time.process_time()
        metrics.CPU.labels().inc(used - self._cpu_seconds)
        self._cpu_seconds = used
        # Only Linux has these files.
        with contextlib.suppress(OSError):
            metrics.RESIDENT_MEMORY.labels().set(int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            metrics.OPEN_FDS.labels().set(len(os.listdir(_FDS)))  # noqa: PTH208 - names are all that is needed
