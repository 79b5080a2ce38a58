"""Every metric that processes count. What is read from PostgreSQL at scrape time is in `collector.py`.

Labels: `queue_name` and `actor_name` are Dramatiq's own, so that panels of both kinds join; an actor is a job type.
"""

from typing import TYPE_CHECKING

from jobs_service.metrics import multiprocess  # noqa: F401 - chooses where values live, before there are any

from prometheus_client import Counter, Gauge, Histogram  # isort: skip

if TYPE_CHECKING:
    from jobs_service.registry import Registry

ATTEMPT_OUTCOMES = ("completed", "retried", "failed", "skipped", "released", "refused")
FINISHED_OUTCOMES = ("completed", "failed", "cancelled")
SOURCES = ("api",)

_LATENCY = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600)
_RUN = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

ENQUEUED = Counter("jobs_enqueued", "Jobs accepted, by where they came from.", ("queue_name", "actor_name", "source"))
STARTED = Counter("jobs_started", "Attempts begun.", ("queue_name",))
ATTEMPTS = Counter(
    "jobs_attempts",
    "Messages handled, by what became of the attempt; skipped: there was nothing to claim.",
    ("queue_name", "actor_name", "outcome"),
)
FINISHED = Counter("jobs_finished", "Jobs that reached a terminal state.", ("queue_name", "actor_name", "outcome"))
QUEUE_LATENCY = Histogram(
    "jobs_queue_latency_seconds",
    "From when an attempt could start to when it did; time a job was told to wait does not count.",
    ("queue_name",),
    buckets=_LATENCY,
)
RUN_DURATION = Histogram(
    "jobs_run_duration_seconds",
    "From the claim to the verdict of an attempt, whatever its outcome.",
    ("queue_name", "actor_name"),
    buckets=_RUN,
)
THREADS_BUSY = Gauge(
    "jobs_worker_threads_busy", "Worker threads that have a message in hand.", multiprocess_mode="livesum"
)
HTTP_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Time to answer a request, by route template.",
    ("http_request_method", "http_route", "http_response_status_code"),
    buckets=_HTTP,
)


def zero(registry: "Registry") -> None:
    """Export every series that is known in advance at 0: rate() and increase() miss a series' first step."""
    for job_type in registry:
        queue, name = job_type.queue, job_type.name
        STARTED.labels(queue)
        QUEUE_LATENCY.labels(queue)
        RUN_DURATION.labels(queue, name)
        for outcome in ATTEMPT_OUTCOMES:
            ATTEMPTS.labels(queue, name, outcome)
        for outcome in FINISHED_OUTCOMES:
            FINISHED.labels(queue, name, outcome)


def zero_api(registry: "Registry") -> None:
    """The same for what the API counts."""
    for job_type in registry:
        for source in SOURCES:
            ENQUEUED.labels(job_type.queue, job_type.name, source)
