"""The metric catalogue: every name that the API and the workers serve, with its type, labels and meaning.

A row makes its metric when it is first used, so a process exports what it counts and nothing else. `docs/metrics.md`
is written from these rows: `make docs`.

Labels: `queue_name` and `actor_name` are Dramatiq's own, so that panels of both kinds join; an actor is a job type. No
label ever holds a job's id or an exception's text.
"""

import platform
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any, get_args

import jobs_service
from jobs_service.events import SubscriberName
from jobs_service.jobs.lifecycle import TERMINAL, EndReason, OnAmbiguous, Status
from jobs_service.metrics import multiprocess  # chooses where values live, before there are any

from prometheus_client import Counter, Gauge, Histogram  # isort: skip
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily  # isort: skip

if TYPE_CHECKING:
    from jobs_service.jobs.job_types import Registry

ATTEMPT_OUTCOMES = (
    "completed",
    "retried",
    "deferred",
    "failed",
    "skipped",
    "released",
    "refused",
    "interrupted",
)
FINISHED_OUTCOMES = ("completed", "failed", "cancelled")
DEAD_LETTER_REASONS = tuple(reason for reason in EndReason if reason is not EndReason.CANCELLED_BY_OPERATOR)
SOURCES = ("api", "redrive")
OPERATIONS = (
    "claim",
    "begin_effect",
    "complete",
    "retry",
    "fail",
    "fail_unknown",
    "snooze",
    "defer",
    "crash",
    "abandon",
    "release",
)
#: The problems' codes that are our own; Falcon has more.
REJECTIONS_KNOWN = (
    "malformed_body",
    "invalid_request",
    "job_not_found",
    "unsupported_media_type",
    "database_unavailable",
    "database_not_migrated",
    "internal_error",
)
SUBMISSION_ERROR_REASONS = ("broker_unavailable", "database_unavailable")

#: So many values a label gets that the code does not know in advance; the others are one.
MAX_VALUES = 50
OTHER = "_OTHER"

_LATENCY = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600)
#: Holds every bound of Dramatiq's own histogram, which is made of this one at the scrape.
_RUN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300, 600, 900, 3600)
_END_TO_END = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600, 10800, 43200, 86400)
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_ATTEMPTS = (1, 2, 3, 5, 8, 13, 20)
_BYTES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)


class Source(StrEnum):
    """Who exports a metric; the value is its heading in docs/metrics.md."""

    API = "Counted by the API"
    WORKER = "Counted by the workers"
    BOTH = "Counted by both"
    SCRAPE = "Computed at the scrape"
    DRAMATIQ = "Under Dramatiq's names"


@dataclass(frozen=True)
class Definition:
    """A row of the catalogue. `name` is as exported, a counter's with its `_total`."""

    kind: str
    name: str
    origin: Source
    label_names: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Counted(Definition):
    """A metric whose values processes keep, in the files of `multiprocess.py`."""

    buckets: tuple[float, ...] = ()
    #: What a gauge of several processes comes to, one of prometheus-client's modes.
    mode: str = ""
    _children: dict[tuple[object, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def metric(self) -> Any:  # noqa: ANN401 - a counter, a gauge or a histogram: whoever uses the row knows which
        match self.kind:
            case "counter":
                return Counter(self.name, self.help, self.label_names)
            case "gauge":
                return Gauge(self.name, self.help, self.label_names, multiprocess_mode=self.mode)  # type: ignore[arg-type]
            case _:
                return Histogram(self.name, self.help, self.label_names, buckets=self.buckets)

    def labels(self, *values: object) -> Any:  # noqa: ANN401 - as above
        """Return the series of these labels; without any, that of a metric that has none."""
        # Several times faster than prometheus-client's own look-up, which takes a lock; a job counts a dozen times.
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self.metric.labels(*values) if values else self.metric
        return child


@dataclass(frozen=True)
class Computed(Definition):
    """A metric whose values are looked up when Prometheus asks."""

    def family(self) -> Any:  # noqa: ANN401 - as above
        """Return an empty family, for one answer."""
        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        return families[self.kind](self.name, self.help, labels=self.label_names)


def _counter(name: str, origin: Source, labels: str, text: str) -> Counted:
    return Counted("counter", name, origin, tuple(labels.split()), text)


def _gauge(name: str, origin: Source, labels: str, text: str, *, mode: str = "livesum") -> Counted:
    return Counted("gauge", name, origin, tuple(labels.split()), text, mode=mode)


def _histogram(name: str, origin: Source, labels: str, text: str, buckets: tuple[float, ...]) -> Counted:
    return Counted("histogram", name, origin, tuple(labels.split()), text, buckets=buckets)


def _computed(name: str, labels: str, text: str, *, kind: str = "gauge", origin: Source = Source.SCRAPE) -> Computed:
    return Computed(kind, name, origin, tuple(labels.split()), text)


_API, _WORKER, _BOTH = Source.API, Source.WORKER, Source.BOTH
_JOB = "queue_name actor_name"

# --- The API: what comes in ---

SUBMITTED = _counter(
    "jobs_submitted_total",
    _API,
    f"{_JOB} source",
    "Jobs accepted; source: api, or redrive: an ended job is to run again.",
)
SUBMISSION_ERRORS = _counter(
    "jobs_submission_errors_total",
    _API,
    "reason",
    "broker_unavailable: a message was not published, the relay will do it; database_unavailable: no job was written.",
)
PAYLOAD_BYTES = _histogram("jobs_payload_bytes", _API, "", "Size of accepted payloads, as they were sent.", _BYTES)
REJECTIONS = _counter(
    "jobs_request_rejections_total", _API, "reason", "Requests answered with a problem, by the problem's code."
)
HTTP_DURATION = _histogram(
    "http_server_request_duration_seconds",
    _API,
    "http_request_method http_route http_response_status_code",
    "Time to answer a request, by route template.",
    _SHORT,
)
HTTP_ACTIVE = _gauge("http_server_active_requests", _API, "", "Requests being answered now.")

# --- The workers: attempts and what became of them ---

STARTED = _counter("jobs_started_total", _WORKER, "queue_name", "Attempts begun.")
STARTED_LATE = _counter(
    "jobs_started_late_total",
    _WORKER,
    "queue_name",
    "Attempts begun later than their queue's target (jobs_queue_slo_latency_seconds).",
)
ATTEMPTS = _counter(
    "jobs_attempts_total",
    _WORKER,
    f"{_JOB} outcome",
    "Messages handled, by what became of the attempt: completed, retried, deferred (what it needs is away, uncounted), "
    "failed, released (given back, uncounted), refused (the lease was gone), interrupted (it was gone, and the code "
    "was stopped), skipped (nothing to claim).",
)
ATTEMPT_ERRORS = _counter(
    "jobs_attempt_errors_total",
    _WORKER,
    f"{_JOB} error_type",
    "Attempts that ended in an exception, by its class; past 50 classes _OTHER.",
)
FINISHED = _counter(
    "jobs_finished_total",
    _BOTH,
    f"{_JOB} outcome",
    "Jobs that reached a terminal state: completed, failed, cancelled (by the API).",
)
DEAD_LETTERS = _counter(
    "jobs_dead_letters_total", _WORKER, f"{_JOB} reason", "Jobs that became dead letters, by end_reason."
)
RESCUED = _counter("jobs_rescued_total", _WORKER, _JOB, "Jobs taken back from workers that went silent.")
QUARANTINED = _counter(
    "jobs_quarantined_total", _WORKER, "queue_name", "Messages in Redis that could not be decoded and were set aside."
)
QUEUE_LATENCY = _histogram(
    "jobs_queue_latency_seconds",
    _WORKER,
    "queue_name",
    "From when an attempt could start to when it did; time a job was told to wait does not count.",
    _LATENCY,
)
RUN_DURATION = _histogram(
    "jobs_run_duration_seconds",
    _WORKER,
    _JOB,
    "From the claim to the verdict of an attempt, whatever its outcome.",
    _RUN,
)
END_TO_END = _histogram(
    "jobs_end_to_end_seconds",
    _WORKER,
    "queue_name",
    "From accepting a job to the end of its last attempt, delays it asked for included.",
    _END_TO_END,
)
ATTEMPTS_PER_JOB = _histogram(
    "jobs_attempts_per_job", _WORKER, _JOB, "Attempts a job had used when it reached its terminal state.", _ATTEMPTS
)
AMBIGUOUS = _counter(
    "jobs_ambiguous_total",
    _WORKER,
    f"{_JOB} policy",
    "Attempts of which nobody knows whether their effect came about, by what was done: resend or hold.",
)
SNOOZED = _counter("jobs_snoozed_total", _WORKER, _JOB, "Attempts put off without being counted.")
STATE_SYNC_DURATION = _histogram(
    "jobs_state_sync_duration_seconds",
    _WORKER,
    "operation",
    f"Time to write a transition to PostgreSQL, waiting for it included: {', '.join(OPERATIONS)}.",
    _SHORT,
)
STATE_SYNC_ERRORS = _counter(
    "jobs_state_sync_errors_total",
    _WORKER,
    "operation",
    "Tries to write a transition that PostgreSQL did not answer; each is repeated until it does.",
)

# --- The worker processes themselves ---

THREADS = _gauge("jobs_worker_threads", _WORKER, "", "Worker threads.")
THREADS_BUSY = _gauge("jobs_worker_threads_busy", _WORKER, "", "Worker threads that have a message in hand.")
RUNNING = _gauge("jobs_worker_running", _WORKER, _JOB, "Attempts running now.")
OLDEST_RUNNING = _gauge(
    "jobs_worker_oldest_running_seconds",
    _WORKER,
    _JOB,
    "How long the longest of the running attempts has been running; 0 when none is.",
    mode="livemax",
)
PREFETCHED = _gauge("jobs_worker_prefetched_messages", _WORKER, "", "Messages taken from Redis that wait for a thread.")
CONSUMERS = _gauge("jobs_worker_consumers", _WORKER, "queue_name", "Threads that take messages from this queue.")
HEARTBEAT = _gauge(
    "jobs_worker_heartbeat_timestamp_seconds",
    _WORKER,
    "",
    "When the process last looked at itself. Has a label pid, as have the next three: the process's slot.",
    mode="liveall",
)
START_TIME = _gauge("jobs_worker_start_time_seconds", _WORKER, "", "When the process started.", mode="liveall")
RESIDENT_MEMORY = _gauge("jobs_worker_resident_memory_bytes", _WORKER, "", "Memory the process holds.", mode="liveall")
OPEN_FDS = _gauge("jobs_worker_open_fds", _WORKER, "", "Files and sockets the process has open.", mode="liveall")
CPU = _counter("jobs_worker_cpu_seconds_total", _WORKER, "", "User and system time of the worker processes.")

# --- Maintenance, in the worker process that leads it ---

MAINTENANCE_LEADER = _gauge("jobs_maintenance_leader", _WORKER, "", "Processes that lead maintenance: 1.")
MAINTENANCE_LAST_RUN = _gauge(
    "jobs_maintenance_last_run_timestamp_seconds",
    _WORKER,
    "service",
    "When a service last ran without an error; 0 before the first time.",
    mode="max",
)
MAINTENANCE_DURATION = _histogram(
    "jobs_maintenance_duration_seconds", _WORKER, "service", "Time a run of a service took.", _SHORT
)
MAINTENANCE_ERRORS = _counter(
    "jobs_maintenance_errors_total", _WORKER, "service", "Runs of a service that ended in an error."
)
CLOCK_STEPS = _counter(
    "jobs_database_clock_steps_total", _WORKER, "", "Times PostgreSQL's clock was set by more than a second."
)
PRUNED = _counter("jobs_pruned_total", _WORKER, "status", "Rows of finished jobs deleted by age.")

# --- Both ---

LOG_RECORDS = _counter(
    "jobs_log_records_total",
    _BOTH,
    "level logger",
    "Log lines from warning up, by the module that wrote them (libraries: their package); events: a job's events.",
)
EVENT_SUBSCRIBER_ERRORS = _counter(
    "jobs_event_subscriber_errors_total",
    _BOTH,
    "subscriber",
    f"Events that a subscriber ({', '.join(get_args(SubscriberName))}) failed to handle: its output lacks them.",
)
CLOCK_OFFSET = _gauge(
    "jobs_clock_offset_seconds",
    _BOTH,
    "",
    "Seconds by which this process's clock is ahead of PostgreSQL's. Has a label pid: the process's slot.",
    mode="liveall",
)
BUILD_INFO = _gauge(
    "jobs_build_info", _BOTH, "version python dramatiq", "1, with the versions that run.", mode="livemax"
)

# --- Computed at the scrape, by the API's and the workers' endpoint alike ---

CURRENT = _computed(
    "jobs_current",
    "queue_name state",
    "Jobs that are not finished: scheduled, pending, retrying (waiting for its backoff), deferred (waiting for what is "
    "away), processing.",
)
OLDEST_ELIGIBLE = _computed(
    "jobs_queue_oldest_eligible_age_seconds",
    "queue_name",
    "How long the first in line has been able to run; 0 when nobody waits.",
)
OVERDUE = _computed(
    "jobs_scheduled_overdue",
    "queue_name",
    "Due jobs at the head of the line for which nobody rang in time: is maintenance running? At most 500 a priority.",
)
STALE_PROCESSING = _computed(
    "jobs_stale_processing", "queue_name", "Jobs in state processing whose worker's heartbeat is too old."
)
DEAD = _computed("jobs_dead", "queue_name", "Dead letters: jobs in state failed.")
DEAD_OLDEST = _computed(
    "jobs_dead_oldest_timestamp_seconds", "queue_name", "When the oldest dead letter failed; absent when there is none."
)
BREAKER_OPEN = _computed(
    "jobs_breaker_open",
    "breaker",
    "1 while a server, whose name this is, is known to be away. Always there for the mail server.",
)
BREAKER_WAITING = _computed(
    "jobs_breaker_waiting", "breaker", "Jobs that wait for a server: to be back, or for their turn when it is."
)
WORKERS = _computed("jobs_workers", "", "Worker processes whose heartbeat is fresh.")
BROKER_MESSAGES = _computed("jobs_broker_messages", "queue_name", "Messages waiting in Redis.")
DLQ_LENGTH = _computed("jobs_dlq_length", "", "Ids on the Redis list job_dlq; soon after a change equal to jobs_dead.")
REDIS_NAME_CONFLICTS = _computed(
    "jobs_redis_name_conflicts",
    "",
    "Names in Redis that are not ours alone: keys that another program wrote, and 1 for another installation.",
)
CANARY_LAST_SUCCESS = _computed(
    "jobs_canary_last_success_timestamp_seconds", "queue_name", "When a canary of this queue last completed."
)
CANARY_LATENCY = _computed(
    "jobs_canary_latency_seconds", "queue_name", "From accepting to completing, of the last canary that completed."
)
SLO_LATENCY = _computed(
    "jobs_queue_slo_latency_seconds", "queue_name", "Setting: the first in line is late after so long."
)
SLO_ERROR_BUDGET = _computed(
    "jobs_queue_slo_error_budget_ratio",
    "queue_name slo",
    "Setting: the part that may go wrong; success: of finished jobs, latency: of the time.",
)
SLO_DEAD_LIMIT = _computed("jobs_queue_dead_limit", "queue_name", "Setting: so many dead letters are too many.")
TIME_LIMIT = _computed("jobs_actor_time_limit_seconds", _JOB, "Setting: how long an attempt may run.")
COLLECTOR_SUCCESS = _computed(
    "jobs_collector_success", "collector", "Whether the collector's last look was answered. Each fails alone."
)
COLLECTOR_DURATION = _computed("jobs_collector_duration_seconds", "collector", "Time its last look took.")
COLLECTOR_LAST_SUCCESS = _computed(
    "jobs_collector_last_success_timestamp_seconds", "collector", "When a look was last answered; 0 if never yet."
)
PG_UP = _computed("jobs_pg_up", "", "Whether PostgreSQL answered.")
PG_LIVE_TUPLES = _computed("jobs_pg_live_tuples", "table", "Live rows, PostgreSQL's estimate.")
PG_DEAD_TUPLES = _computed("jobs_pg_dead_tuples", "table", "Dead rows that vacuum has yet to clear, an estimate.")
PG_TABLE_BYTES = _computed("jobs_pg_table_bytes", "table", "Size on disk, indexes included.")
PG_LAST_AUTOVACUUM = _computed(
    "jobs_pg_last_autovacuum_timestamp_seconds", "table", "When autovacuum last ran; absent if never."
)
PG_OLDEST_XACT = _computed(
    "jobs_pg_oldest_xact_age_seconds", "", "Age of the oldest transaction: vacuum clears nothing younger; 0 if none."
)
PG_CONNECTIONS = _computed("jobs_pg_connections", "", "Connections to this database.")
PG_MAX_CONNECTIONS = _computed("jobs_pg_max_connections", "", "Connections the server takes at most.")
REDIS_UP = _computed("jobs_redis_up", "", "Whether Redis answered.")
REDIS_MEMORY = _computed(
    "jobs_redis_memory_bytes", "kind", "used: memory in use; max: what it may use, 0 when not limited."
)
REDIS_EVICTED = _computed(
    "jobs_redis_evicted_keys_total", "", "Keys Redis dropped for want of memory: messages lost.", kind="counter"
)
REDIS_CLIENTS = _computed("jobs_redis_clients", "", "Connections to Redis.")

# --- Dramatiq's own names, made of the above at the scrape: see dramatiq_names.py ---


def _dramatiq(name: str, text: str, kind: str = "counter") -> Computed:
    return _computed(f"dramatiq_{name}", _JOB, text, kind=kind, origin=Source.DRAMATIQ)


DRAMATIQ_MESSAGES = _dramatiq("messages_total", "Attempts that ended.")
DRAMATIQ_ERRORS = _dramatiq("message_errors_total", "Attempts that ended in an error: retried and failed.")
DRAMATIQ_RETRIES = _dramatiq("message_retries_total", "Attempts after which another was planned.")
DRAMATIQ_REJECTS = _dramatiq("message_rejects_total", "Jobs that became dead letters.")
DRAMATIQ_IN_PROGRESS = _dramatiq("messages_inprogress", "Attempts running now.", "gauge")
DRAMATIQ_DELAYED = _dramatiq(
    "delayed_messages_inprogress", "Always 0: delays are kept in PostgreSQL, not in memory.", "gauge"
)
DRAMATIQ_DURATION = _dramatiq(
    "message_duration_milliseconds", "Run time of attempts, in Dramatiq's own buckets.", "histogram"
)

#: Every row, by name.
CATALOGUE: dict[str, Definition] = {row.name: row for row in list(vars().values()) if isinstance(row, Definition)}


class Capped:
    """A label's values, but for those past the first `MAX_VALUES` of this slot: job code may make names without end."""

    def __init__(self, row: Counted, label: str) -> None:
        self.row = row
        self.label = label
        self._lock = Lock()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        with self._lock:
            if len(self._known) >= MAX_VALUES:
                return OTHER
            self._known.add(value)
            return value

    @cached_property
    def _known(self) -> set[str]:
        return multiprocess.labels_kept(self.row.name, self.label) - {OTHER}


def zero_worker(registry: "Registry") -> None:
    """Export every series that is known in advance at 0: rate() and increase() miss a series' first step."""
    for queue in registry.queues:
        for row in (STARTED, STARTED_LATE, QUEUE_LATENCY, END_TO_END, QUARANTINED):
            row.labels(queue)
    for job_type in registry:
        job = (job_type.queue, job_type.name)
        for row in (RUN_DURATION, ATTEMPTS_PER_JOB, RESCUED, SNOOZED):
            row.labels(*job)
        _each(ATTEMPTS, job, ATTEMPT_OUTCOMES)
        _each(FINISHED, job, FINISHED_OUTCOMES)
        _each(DEAD_LETTERS, job, DEAD_LETTER_REASONS)
        _each(AMBIGUOUS, job, tuple(OnAmbiguous))
    _each(STATE_SYNC_DURATION, (), OPERATIONS)
    _each(STATE_SYNC_ERRORS, (), OPERATIONS)
    _each(PRUNED, (), TERMINAL)
    CLOCK_STEPS.labels()
    _zero_both()


def zero_api(registry: "Registry") -> None:
    """The same for what the API counts."""
    for job_type in registry:
        job = (job_type.queue, job_type.name)
        _each(SUBMITTED, job, SOURCES)
        FINISHED.labels(*job, Status.CANCELLED)
    _each(SUBMISSION_ERRORS, (), SUBMISSION_ERROR_REASONS)
    _each(REJECTIONS, (), REJECTIONS_KNOWN)
    PAYLOAD_BYTES.labels()
    HTTP_ACTIVE.labels()
    _zero_both()


def _zero_both() -> None:
    for level in ("warning", "error"):
        LOG_RECORDS.labels(level, "events")
    _each(EVENT_SUBSCRIBER_ERRORS, (), get_args(SubscriberName))
    BUILD_INFO.labels(jobs_service.__version__, platform.python_version(), version("dramatiq")).set(1)


def _each(row: Counted, labels: tuple[str, ...], values: tuple[str, ...]) -> None:
    for value in values:
        row.labels(*labels, value)
