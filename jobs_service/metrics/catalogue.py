"""The metric catalogue: every metric that the API and the workers export, with its type, labels and help text.

A metric is created when it is first used, so that a process exports only what it counts. `make docs` writes
`docs/metrics.md` from this catalogue.

The labels `queue_name` and `actor_name` are Dramatiq's, so that queries can join both kinds of metrics; an actor is a
job type. No label ever holds a job's id or an exception's text.
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
from jobs_service.metrics import multiprocess  # must be imported before any metric is created

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
BULK_ACTION_KINDS = ("redrive", "discard", "cancellation")
BULK_ACTION_OUTCOMES = ("moved", "skipped")
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
#: The codes of this service's own problem documents. Falcon adds others.
REJECTIONS_KNOWN = (
    "malformed_body",
    "invalid_request",
    "job_not_found",
    "unsupported_media_type",
    "database_unavailable",
    "database_not_migrated",
    "too_busy",
    "unauthenticated",
    "invalid_key",
    "key_expired",
    "scope_missing",
    "rate_limited",
    "queue_full",
    "internal_error",
)
SUBMISSION_ERROR_REASONS = ("broker_unavailable", "database_unavailable", "too_busy", "queue_full")

#: The maximum number of values of a label whose values are not known in advance. All further values become `OTHER`.
MAX_VALUES = 50
OTHER = "_OTHER"

_LATENCY = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21600)
#: Includes every bound of Dramatiq's own histogram, which is derived from this one at the scrape.
_RUN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300, 600, 900, 3600)
_END_TO_END = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600, 10800, 43200, 86400)
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_DELAY = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ATTEMPTS = (1, 2, 3, 5, 8, 13, 20)
_BYTES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)


class Source(StrEnum):
    """Which process exports a metric. The value is the heading in docs/metrics.md."""

    API = "Counted by the API"
    WORKER = "Counted by the workers"
    BOTH = "Counted by both"
    SCRAPE = "Computed at the scrape"
    DRAMATIQ = "Under Dramatiq's names"


@dataclass(frozen=True)
class Definition:
    """A metric of the catalogue. `name` is the exported name; that of a counter ends in `_total`."""

    kind: str
    name: str
    origin: Source
    label_names: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Counted(Definition):
    """A metric whose values the processes keep, in the files of `multiprocess.py`."""

    buckets: tuple[float, ...] = ()
    #: How the values of a gauge are combined over processes: one of prometheus-client's modes.
    mode: str = ""
    _children: dict[tuple[object, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def metric(self) -> Any:  # noqa: ANN401 - a counter, a gauge or a histogram, depending on `kind`
        match self.kind:
            case "counter":
                return Counter(self.name, self.help, self.label_names)
            case "gauge":
                return Gauge(self.name, self.help, self.label_names, multiprocess_mode=self.mode)  # type: ignore[arg-type]
            case _:
                return Histogram(self.name, self.help, self.label_names, buckets=self.buckets)

    def labels(self, *values: object) -> Any:  # noqa: ANN401 - as above
        """Return the series with these label values, or the only series of a metric without labels."""
        # Several times faster than prometheus-client's own lookup, which takes a lock. Each job does a dozen of these.
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self.metric.labels(*values) if values else self.metric
        return child


@dataclass(frozen=True)
class Computed(Definition):
    """A metric whose values are read from PostgreSQL, Redis or the settings at each scrape."""

    def family(self) -> Any:  # noqa: ANN401 - as above
        """Return a new, empty metric family for one scrape."""
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

# --- The API: submissions and requests ---

SUBMITTED = _counter(
    "jobs_submitted_total",
    _BOTH,
    f"{_JOB} source",
    "Jobs submitted, by source: api (a new job) or redrive (a finished job that runs again; counted by the workers if "
    "an action redrives many).",
)
SUBMISSION_ERRORS = _counter(
    "jobs_submission_errors_total",
    _API,
    "reason",
    "Submissions that hit an error, by reason: broker_unavailable (the job was written but not published; the relay "
    "publishes it), database_unavailable (the job was not confirmed), too_busy (too many jobs waited to be written) or "
    "queue_full (too many jobs wait in the queue).",
)
PAYLOAD_BYTES = _histogram(
    "jobs_payload_bytes", _API, "", "Size in bytes of the payloads of submitted jobs, as they were sent.", _BYTES
)
DISCARDED = _counter(
    "jobs_discarded_total",
    _BOTH,
    _JOB,
    "Dead letters that a person deleted, by job type. Counted by the workers if an action deletes many.",
)
REJECTIONS = _counter(
    "jobs_request_rejections_total",
    _API,
    "reason",
    "Requests answered with a problem document, by the problem's code.",
)
HTTP_DURATION = _histogram(
    "http_server_request_duration_seconds",
    _API,
    "http_request_method http_route http_response_status_code",
    "Seconds to answer a request, by method, route template and status code.",
    _SHORT,
)
HTTP_LOOP_DELAY = _histogram(
    "http_server_event_loop_delay_seconds",
    _API,
    "",
    "How much later than planned the API's event loop came to a callback, in seconds: as long, every request waits. "
    "Measured ten times a second while there are requests, and once a second while there are none.",
    _DELAY,
)
EVENT_STREAMS = _gauge("jobs_event_streams", _API, "", "Clients that are sent events of jobs as they happen.")
EVENTS_SENT = _counter("jobs_events_sent_total", _API, "", "Events that were sent to clients, counted for each client.")
EVENT_READERS_DROPPED = _counter(
    "jobs_event_readers_dropped_total",
    _API,
    "",
    "Streams of events that were ended because their clients read too slowly. Such a client resumes where it was.",
)
HTTP_ACTIVE = _gauge("http_server_active_requests", _API, "", "Requests that are being answered.")

# --- The workers: attempts and their outcomes ---

STARTED = _counter("jobs_started_total", _WORKER, "queue_name", "Attempts started, by queue.")
STARTED_LATE = _counter(
    "jobs_started_late_total",
    _WORKER,
    "queue_name",
    "Attempts started later than their queue's target (jobs_queue_slo_latency_seconds), by queue.",
)
ATTEMPTS = _counter(
    "jobs_attempts_total",
    _WORKER,
    f"{_JOB} outcome",
    "Messages handled, by the outcome of the attempt: completed, retried, failed, deferred (a server was unavailable; "
    "the attempt does not count), released (given back; does not count), refused (it had lost its lease), interrupted "
    "(it had lost its lease, and its code was stopped), skipped (there was nothing to claim).",
)
ATTEMPT_ERRORS = _counter(
    "jobs_attempt_errors_total",
    _WORKER,
    f"{_JOB} error_type",
    "Attempts that ended in an exception, by its class. After 50 classes all others are _OTHER.",
)
FINISHED = _counter(
    "jobs_finished_total",
    _BOTH,
    f"{_JOB} outcome",
    "Jobs that reached a terminal state, by outcome: completed, failed, cancelled (counted by the API, and by the "
    "workers if an action cancels many).",
)
DEAD_LETTERS = _counter(
    "jobs_dead_letters_total", _WORKER, f"{_JOB} reason", "Jobs that became dead letters, by end_reason."
)
RESCUED = _counter(
    "jobs_rescued_total", _WORKER, _JOB, "Jobs taken back from workers that stopped sending heartbeats, by job type."
)
BULK_ACTIONS_ENDED = _counter(
    "jobs_bulk_actions_total",
    _BOTH,
    "kind state",
    "Actions on many jobs that ended, by kind (redrive, discard or cancellation) and state: completed (counted by the "
    "workers) or cancelled, which is stopped (by the API).",
)
BULK_ACTION_JOBS = _counter(
    "jobs_bulk_action_jobs_total",
    _BOTH,
    "kind outcome",
    "Members of actions on many jobs, by outcome: moved (pending again, deleted or cancelled) or skipped (not any more "
    "what the action is about; counted when the action has ended).",
)
QUARANTINED = _counter(
    "jobs_quarantined_total",
    _WORKER,
    "queue_name",
    "Messages in Redis that could not be decoded and were moved to the list job_undecodable, by queue.",
)
QUEUE_LATENCY = _histogram(
    "jobs_queue_latency_seconds",
    _WORKER,
    "queue_name",
    "Seconds from when an attempt could have started until it started. Delays that were asked for are not included.",
    _LATENCY,
)
RUN_DURATION = _histogram(
    "jobs_run_duration_seconds",
    _WORKER,
    _JOB,
    "Seconds from the claim of an attempt to its verdict, for every outcome.",
    _RUN,
)
END_TO_END = _histogram(
    "jobs_end_to_end_seconds",
    _WORKER,
    "queue_name",
    "Seconds from submitting a job to the end of its last attempt, including delays that were asked for.",
    _END_TO_END,
)
ATTEMPTS_PER_JOB = _histogram(
    "jobs_attempts_per_job",
    _WORKER,
    _JOB,
    "Number of attempts that a job had used when it reached its terminal state.",
    _ATTEMPTS,
)
AMBIGUOUS = _counter(
    "jobs_ambiguous_total",
    _WORKER,
    f"{_JOB} policy",
    "Attempts whose effect may or may not have happened, by the job's policy: resend or hold.",
)
SNOOZED = _counter(
    "jobs_snoozed_total", _WORKER, _JOB, "Attempts whose job was postponed by its own code; they do not count."
)
STATE_SYNC_DURATION = _histogram(
    "jobs_state_sync_duration_seconds",
    _WORKER,
    "operation",
    "Seconds to write a transition to PostgreSQL, including the time it was unavailable, by operation: "
    f"{', '.join(OPERATIONS)}.",
    _SHORT,
)
STATE_SYNC_ERRORS = _counter(
    "jobs_state_sync_errors_total",
    _WORKER,
    "operation",
    "Failed tries to write a transition to PostgreSQL, by operation. Each is repeated until it succeeds.",
)

# --- The worker processes themselves ---

THREADS = _gauge("jobs_worker_threads", _WORKER, "", "Worker threads.")
THREADS_BUSY = _gauge("jobs_worker_threads_busy", _WORKER, "", "Worker threads that are handling a message.")
RUNNING = _gauge("jobs_worker_running", _WORKER, _JOB, "Attempts that are running, by job type.")
OLDEST_RUNNING = _gauge(
    "jobs_worker_oldest_running_seconds",
    _WORKER,
    _JOB,
    "Seconds for which the oldest running attempt has run, by job type; 0 if none is running.",
    mode="livemax",
)
PREFETCHED = _gauge(
    "jobs_worker_prefetched_messages", _WORKER, "", "Messages popped from Redis that wait for a worker thread."
)
CONSUMERS = _gauge("jobs_worker_consumers", _WORKER, "queue_name", "Threads that consume messages, by queue.")
HEARTBEAT = _gauge(
    "jobs_worker_heartbeat_timestamp_seconds",
    _WORKER,
    "",
    "Unix time at which the process last updated its gauges. This metric and the next three have a label pid: the "
    "process's slot.",
    mode="liveall",
)
START_TIME = _gauge(
    "jobs_worker_start_time_seconds", _WORKER, "", "Unix time at which the process started.", mode="liveall"
)
RESIDENT_MEMORY = _gauge(
    "jobs_worker_resident_memory_bytes", _WORKER, "", "Resident memory of the process in bytes.", mode="liveall"
)
OPEN_FDS = _gauge("jobs_worker_open_fds", _WORKER, "", "Open file descriptors of the process.", mode="liveall")
CPU = _counter(
    "jobs_worker_cpu_seconds_total", _WORKER, "", "User and system CPU time of the worker processes in seconds."
)

# --- Maintenance, in the worker process that leads it ---

MAINTENANCE_LEADER = _gauge(
    "jobs_maintenance_leader", _WORKER, "", "Processes that lead maintenance; 1 in normal operation."
)
MAINTENANCE_LAST_RUN = _gauge(
    "jobs_maintenance_last_run_timestamp_seconds",
    _WORKER,
    "service",
    "Unix time at which a maintenance service last ran without an error; 0 before its first run.",
    mode="max",
)
MAINTENANCE_DURATION = _histogram(
    "jobs_maintenance_duration_seconds", _WORKER, "service", "Seconds that a run of a maintenance service took.", _SHORT
)
MAINTENANCE_ERRORS = _counter(
    "jobs_maintenance_errors_total", _WORKER, "service", "Runs of a maintenance service that ended in an error."
)
CLOCK_STEPS = _counter(
    "jobs_database_clock_steps_total",
    _WORKER,
    "",
    "Times that PostgreSQL's clock was set forward or back by more than a second.",
)
PRUNED = _counter(
    "jobs_pruned_total", _WORKER, "status", "Rows of finished jobs deleted when their retention was over, by status."
)

# --- Both ---

LOG_RECORDS = _counter(
    "jobs_log_records_total",
    _BOTH,
    "level logger",
    "Log lines of level warning or above, by level and logger: the module, a library's package, or events (the events "
    "of jobs).",
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
    "Seconds by which this process's clock is ahead of PostgreSQL's. It has a label pid: the process's slot.",
    mode="liveall",
)
BUILD_INFO = _gauge(
    "jobs_build_info",
    _BOTH,
    "version python dramatiq",
    "Always 1. The labels are the versions of this service, Python and Dramatiq.",
    mode="livemax",
)

# --- Computed at the scrape, by the endpoints of both the API and the workers ---

CURRENT = _computed(
    "jobs_current",
    "queue_name state",
    "Jobs that are not finished, by state: scheduled, pending, retrying (waiting for the next attempt), deferred "
    "(waiting for an unavailable server), processing.",
)
OLDEST_ELIGIBLE = _computed(
    "jobs_queue_oldest_eligible_age_seconds",
    "queue_name",
    "Seconds for which the first job of the queue has been due; 0 if no job is due.",
)
QUEUE_PAUSED = _computed(
    "jobs_queue_paused", "queue_name", "1 while the queue is paused, so that none of its jobs is claimed, else 0."
)
OVERDUE = _computed(
    "jobs_scheduled_overdue",
    "queue_name",
    "Due jobs at the head of the queue that were not published in time; more than 0 suggests that maintenance is not "
    "running. At most 500 jobs are counted per job type and priority.",
)
STALE_PROCESSING = _computed(
    "jobs_stale_processing",
    "queue_name",
    "Jobs in status processing whose worker's last heartbeat is older than LEASE_SECONDS.",
)
DEAD = _computed("jobs_dead", "queue_name", "Dead letters: jobs in status failed.")
DEAD_OLDEST = _computed(
    "jobs_dead_oldest_timestamp_seconds",
    "queue_name",
    "Unix time at which the oldest dead letter failed; absent if there is none.",
)
BULK_ACTIONS_RUNNING = _computed("jobs_bulk_actions_running", "kind", "Actions on many jobs that are running.")
BULK_ACTIONS_REMAINING = _computed(
    "jobs_bulk_actions_remaining", "kind", "Members of running actions that were not looked at yet."
)
BREAKER_OPEN = _computed(
    "jobs_breaker_open",
    "breaker",
    "1 while the server of this name is known to be unavailable, else 0. The mail server always has a series.",
)
BREAKER_WAITING = _computed(
    "jobs_breaker_waiting",
    "breaker",
    "Jobs deferred for the server of this name: until it is available, or until their turn after that.",
)
WORKERS = _computed("jobs_workers", "", "Worker processes whose last heartbeat is not older than LEASE_SECONDS.")
BROKER_MESSAGES = _computed("jobs_broker_messages", "queue_name", "Messages that wait in Redis, by queue.")
DLQ_LENGTH = _computed(
    "jobs_dlq_length", "", "Ids on the Redis list job_dlq. It follows the sum of jobs_dead within seconds."
)
REDIS_NAME_CONFLICTS = _computed(
    "jobs_redis_name_conflicts",
    "",
    "Conflicts over key names in Redis: one per key that another program wrote, and one if another installation uses "
    "the same names.",
)
CANARY_LAST_SUCCESS = _computed(
    "jobs_canary_last_success_timestamp_seconds",
    "queue_name",
    "Unix time at which a canary of this queue last completed.",
)
CANARY_LATENCY = _computed(
    "jobs_canary_latency_seconds",
    "queue_name",
    "Seconds from submission to completion of the last completed canary of this queue.",
)
CONSOLE_INFO = _computed(
    "jobs_console_info",
    "url",
    "Setting: always 1. The label is the console's address, CONSOLE_URL, to which dashboards link; absent without it.",
)
SLO_LATENCY = _computed(
    "jobs_queue_slo_latency_seconds",
    "queue_name",
    "Setting: seconds after which the first due job of the queue is late.",
)
SLO_ERROR_BUDGET = _computed(
    "jobs_queue_slo_error_budget_ratio",
    "queue_name slo",
    "Setting: the ratio that may miss the objective. success: of finished jobs; latency: of the time.",
)
SLO_DEAD_LIMIT = _computed(
    "jobs_queue_dead_limit", "queue_name", "Setting: the number of dead letters above which an alert fires."
)
TIME_LIMIT = _computed("jobs_actor_time_limit_seconds", _JOB, "Setting: seconds that an attempt may run, by job type.")
COLLECTOR_SUCCESS = _computed(
    "jobs_collector_success",
    "collector",
    "1 if the collector's last query succeeded, else 0. Collectors fail independently.",
)
COLLECTOR_DURATION = _computed(
    "jobs_collector_duration_seconds", "collector", "Seconds that the collector's last query took."
)
COLLECTOR_LAST_SUCCESS = _computed(
    "jobs_collector_last_success_timestamp_seconds",
    "collector",
    "Unix time at which the collector's query last succeeded; 0 if it never has.",
)
PG_UP = _computed("jobs_pg_up", "", "1 if PostgreSQL answered, else 0.")
PG_LIVE_TUPLES = _computed("jobs_pg_live_tuples", "table", "Live rows in the table, as PostgreSQL estimates.")
PG_DEAD_TUPLES = _computed(
    "jobs_pg_dead_tuples", "table", "Dead rows in the table that vacuum has not yet removed, as PostgreSQL estimates."
)
PG_TABLE_BYTES = _computed("jobs_pg_table_bytes", "table", "Size of the table on disk in bytes, including indexes.")
PG_LAST_AUTOVACUUM = _computed(
    "jobs_pg_last_autovacuum_timestamp_seconds",
    "table",
    "Unix time at which autovacuum last ran on the table; absent if it never has.",
)
PG_OLDEST_XACT = _computed(
    "jobs_pg_oldest_xact_age_seconds",
    "",
    "Age in seconds of the oldest open transaction; 0 if there is none. Vacuum cannot remove rows that died after it "
    "began.",
)
PG_CONNECTIONS = _computed("jobs_pg_connections", "", "Connections to this database.")
PG_MAX_CONNECTIONS = _computed("jobs_pg_max_connections", "", "The server's connection limit (max_connections).")
REDIS_UP = _computed("jobs_redis_up", "", "1 if Redis answered, else 0.")
REDIS_MEMORY = _computed(
    "jobs_redis_memory_bytes", "kind", "Memory of Redis in bytes: used, or max (the limit; 0 if there is none)."
)
REDIS_EVICTED = _computed(
    "jobs_redis_evicted_keys_total",
    "",
    "Keys that Redis evicted because its memory was full; each means lost messages.",
    kind="counter",
)
REDIS_CLIENTS = _computed("jobs_redis_clients", "", "Client connections to Redis.")

# --- Dramatiq's own names, derived from the above at the scrape: see dramatiq_names.py ---


def _dramatiq(name: str, text: str, kind: str = "counter") -> Computed:
    return _computed(f"dramatiq_{name}", _JOB, text, kind=kind, origin=Source.DRAMATIQ)


DRAMATIQ_MESSAGES = _dramatiq("messages_total", "Attempts that ended, by job type.")
DRAMATIQ_ERRORS = _dramatiq(
    "message_errors_total", "Attempts that ended in an error (outcome retried or failed), by job type."
)
DRAMATIQ_RETRIES = _dramatiq("message_retries_total", "Attempts after which the job was retried, by job type.")
DRAMATIQ_REJECTS = _dramatiq("message_rejects_total", "Jobs that became dead letters, by job type.")
DRAMATIQ_IN_PROGRESS = _dramatiq("messages_inprogress", "Attempts that are running, by job type.", "gauge")
DRAMATIQ_DELAYED = _dramatiq(
    "delayed_messages_inprogress", "Always 0, because delays are kept in PostgreSQL and not in memory.", "gauge"
)
DRAMATIQ_DURATION = _dramatiq(
    "message_duration_milliseconds", "Run time of attempts in milliseconds, in Dramatiq's buckets.", "histogram"
)

#: Every metric, by name.
CATALOGUE: dict[str, Definition] = {row.name: row for row in list(vars().values()) if isinstance(row, Definition)}


class Capped:
    """Limits a label to the first `MAX_VALUES` values in this slot, since job code can produce any number of them."""

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
    """Create every worker series that is known in advance at 0: `rate()` and `increase()` miss the first increment."""
    for queue in registry.queues:
        for row in (STARTED, STARTED_LATE, QUEUE_LATENCY, END_TO_END, QUARANTINED):
            row.labels(queue)
    for job_type in registry:
        job = (job_type.queue, job_type.name)
        for row in (RUN_DURATION, ATTEMPTS_PER_JOB, RESCUED, SNOOZED, DISCARDED):
            row.labels(*job)
        SUBMITTED.labels(*job, "redrive")
        _each(ATTEMPTS, job, ATTEMPT_OUTCOMES)
        _each(FINISHED, job, FINISHED_OUTCOMES)
        _each(DEAD_LETTERS, job, DEAD_LETTER_REASONS)
        _each(AMBIGUOUS, job, tuple(OnAmbiguous))
    _each(STATE_SYNC_DURATION, (), OPERATIONS)
    _each(STATE_SYNC_ERRORS, (), OPERATIONS)
    _each(PRUNED, (), TERMINAL)
    for kind in BULK_ACTION_KINDS:
        _each(BULK_ACTION_JOBS, (kind,), BULK_ACTION_OUTCOMES)
        BULK_ACTIONS_ENDED.labels(kind, "completed")
    CLOCK_STEPS.labels()
    _zero_both()


def zero_api(registry: "Registry") -> None:
    """Create every API series that is known in advance at 0."""
    for job_type in registry:
        job = (job_type.queue, job_type.name)
        _each(SUBMITTED, job, SOURCES)
        FINISHED.labels(*job, Status.CANCELLED)
        DISCARDED.labels(*job)
    for kind in BULK_ACTION_KINDS:
        BULK_ACTIONS_ENDED.labels(kind, "cancelled")
        BULK_ACTION_JOBS.labels(kind, "skipped")
    _each(SUBMISSION_ERRORS, (), SUBMISSION_ERROR_REASONS)
    _each(REJECTIONS, (), REJECTIONS_KNOWN)
    PAYLOAD_BYTES.labels()
    HTTP_ACTIVE.labels()
    HTTP_LOOP_DELAY.labels()
    EVENT_STREAMS.labels()
    EVENTS_SENT.labels()
    EVENT_READERS_DROPPED.labels()
    _zero_both()


def _zero_both() -> None:
    for level in ("warning", "error"):
        LOG_RECORDS.labels(level, "events")
    _each(EVENT_SUBSCRIBER_ERRORS, (), get_args(SubscriberName))
    BUILD_INFO.labels(jobs_service.__version__, platform.python_version(), version("dramatiq")).set(1)


def _each(row: Counted, labels: tuple[str, ...], values: tuple[str, ...]) -> None:
    for value in values:
        row.labels(*labels, value)
