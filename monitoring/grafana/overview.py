"""The dashboard "Jobs overview": is it well, does it flow, how long does it take, what fails, what do clients see."""

from pages import Row, dashboard, datasource_variable, label_variable
from panels import Json, Panel, Query, graph, heatmap, stat
from promql import QUEUES, cells, increase, quantile, rate, truth

PENDING = f'state="pending",{QUEUES}'


def build() -> Json:
    return dashboard(
        uid="jobs-overview",
        title="Jobs overview",
        description="Health, flow, latency and errors of the job system, and what its API's clients see.",
        variables=[datasource_variable(), label_variable("queue_name", "Queue", "jobs_current")],
        rows=[
            Row("Health", _health()),
            Row("Flow", _flow()),
            Row("Latency", _latency()),
            Row("Errors", _errors()),
            Row("API", _api()),
        ],
    )


def _ended(outcome: str) -> str:
    """Return how many jobs ended in the last hour with this outcome, a regular expression."""
    return f'sum(increase(jobs_finished_total{{outcome=~"{outcome}",{QUEUES}}}[1h]))'


def _quantiles(metric: str) -> list[Query]:
    return [Query(quantile(q, metric, ""), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)]


def _health() -> list[Panel]:
    return [
        stat(
            "Worker processes",
            "Worker processes whose heartbeat in PostgreSQL is fresh. None: nothing is processed.",
            "max(jobs_workers)",
            unit="none",
            base="red",
            steps={1: "green"},
        ),
        stat(
            "Targets down",
            "Instances of the API and the workers that Prometheus knows of and gets no answer from.",
            'sum(1 - up{job=~"jobs-.*"})',
            unit="none",
            steps={1: "red"},
        ),
        stat(
            "Success, last hour",
            "Of the jobs that ended in the last hour, the part that completed. No data: none ended.",
            f"{_ended('completed')} / ({_ended('completed|failed')} > 0)",
            unit="percentunit",
            base="red",
            steps={0.95: "orange", 0.99: "green"},
            decimals=2,
        ),
        stat(
            "Waiting now",
            "Jobs that could start at once and wait for a worker.",
            f"sum({truth('jobs_current', 'queue_name', PENDING)})",
            unit="short",
        ),
        stat(
            "Longest wait",
            "How long the first in line of any queue has been able to start.",
            f"max(jobs_queue_oldest_eligible_age_seconds{{{QUEUES}}})",
            unit="s",
            steps={60: "orange", 300: "red"},
            decimals=1,
        ),
        stat(
            "Dead letters",
            "Jobs in state failed: no further attempt will be made unless somebody asks for it.",
            f"sum({truth('jobs_dead', 'queue_name')})",
            unit="short",
            steps={1: "orange"},
        ),
    ]


def _flow() -> list[Panel]:
    return [
        graph(
            "In and out",
            "Jobs accepted by the API, and jobs that ended, by outcome. Accepted above the rest: the backlog grows.",
            [
                Query(rate("jobs_enqueued_total", ""), "accepted"),
                Query(rate("jobs_finished_total", "outcome"), "{{outcome}}"),
            ],
            unit="ops",
        ),
        graph(
            "Unfinished jobs by state",
            "Pending could start now; scheduled and retrying wait for their time; processing is with a worker.",
            [Query(f"sum by (state) ({truth('jobs_current', 'queue_name, state')})", "{{state}}")],
            unit="short",
            stacked=True,
        ),
        graph(
            "Backlog by queue",
            "Jobs that could start now, by queue.",
            [Query(truth("jobs_current", "queue_name", PENDING), "{{queue_name}}")],
            unit="short",
            width=6,
        ),
        graph(
            "Time to drain",
            "Seconds until nobody waits, if jobs go on finishing as in the last ten minutes. No line: none finishes.",
            [Query(f"queue_name:jobs_drain_seconds:ratio{{{QUEUES}}}", "{{queue_name}}")],
            unit="s",
            width=6,
        ),
        graph(
            "Attempts begun",
            "Attempts begun per second, by queue. More than accepted: retries.",
            [Query(rate("jobs_started_total", "queue_name"), "{{queue_name}}")],
            unit="ops",
            width=6,
        ),
        graph(
            "Busy worker threads",
            "Threads with a message in hand, of all workers. At WORKER_PROCESSES x WORKER_THREADS, jobs wait.",
            [Query("sum(jobs_worker_threads_busy)", "busy")],
            unit="short",
            width=6,
        ),
    ]


def _latency() -> list[Panel]:
    return [
        heatmap(
            "Queue latency, distribution",
            "From when an attempt could start to when it did. Time a job was told to wait does not count.",
            cells("jobs_queue_latency_seconds"),
            unit="s",
        ),
        graph(
            "Queue latency",
            "The same as quantiles. It sees only attempts that started: a queue at rest shows in the longest wait.",
            _quantiles("jobs_queue_latency_seconds"),
            unit="s",
        ),
        graph(
            "Longest wait by queue",
            "How long the first in line has been able to start, as PostgreSQL sees it; 0 when nobody waits.",
            [Query(truth("jobs_queue_oldest_eligible_age_seconds", "queue_name"), "{{queue_name}}")],
            unit="s",
            width=8,
        ),
        graph(
            "Run duration",
            "From an attempt's claim to its verdict, whatever the outcome.",
            _quantiles("jobs_run_duration_seconds"),
            unit="s",
            width=8,
        ),
        graph(
            "Run duration by job type, p95",
            "The slowest twentieth of the attempts of each job type takes longer than this.",
            [Query(quantile(0.95, "jobs_run_duration_seconds", "actor_name"), "{{actor_name}}")],
            unit="s",
            width=8,
        ),
    ]


def _errors() -> list[Panel]:
    retried = rate("jobs_attempts_total", "actor_name", f'outcome="retried",{QUEUES}')
    begun = rate("jobs_attempts_total", "actor_name", f'outcome=~"completed|retried|failed",{QUEUES}')
    return [
        graph(
            "Attempts by outcome",
            "Every message a worker handled. Skipped: the job was done or taken; released: handed back at a stop.",
            [Query(rate("jobs_attempts_total", "outcome"), "{{outcome}}")],
            unit="ops",
            stacked=True,
        ),
        graph(
            "Retried attempts by job type",
            "The part of each type's attempts that failed and will be tried again. Near 100 %: what it needs is away.",
            [Query(f"{retried} / ({begun} > 0)", "{{actor_name}}")],
            unit="percentunit",
            maximum=1,
        ),
        graph(
            "Jobs failed for good, by job type",
            "New dead letters in each interval.",
            [
                Query(increase("jobs_finished_total", "actor_name", f'outcome="failed",{QUEUES}'), "{{actor_name}}"),
            ],
            unit="short",
        ),
        graph(
            "Dead letters by queue",
            "Jobs in state failed. It falls when they are tried again or deleted.",
            [Query(truth("jobs_dead", "queue_name"), "{{queue_name}}")],
            unit="short",
        ),
    ]


def _api() -> list[Panel]:
    requests = "http_server_request_duration_seconds"
    every = rate(f"{requests}_count", "http_route", "")
    broken = rate(f"{requests}_count", "http_route", 'http_response_status_code=~"5.."')
    status = "http_response_status_code"
    return [
        graph(
            "Requests by route",
            "Requests per second. Routes are templates; what matches none of them is one line.",
            [Query(every, "{{http_route}}")],
            unit="reqps",
            width=8,
        ),
        graph(
            "Server errors by route",
            "The part of the answers that was 5xx: ours, or a server of ours that was away.",
            [Query(f"({broken} or 0 * {every}) / ({every} > 0)", "{{http_route}}")],
            unit="percentunit",
            width=8,
            maximum=1,
        ),
        graph(
            "Answer time by route, p95",
            "The slowest twentieth of the requests of each route takes longer than this.",
            [Query(quantile(0.95, requests, "http_route", ""), "{{http_route}}")],
            unit="s",
            width=8,
        ),
        graph(
            "Answers by status",
            "4xx are the clients' mistakes, 5xx are ours.",
            [Query(rate(f"{requests}_count", status, ""), f"{{{{{status}}}}}")],
            unit="reqps",
            stacked=True,
        ),
        graph(
            "PostgreSQL answers the collectors",
            "Below 1, an app or a worker could not read that group of gauges: the panels above show gaps.",
            [Query("min by (collector) (jobs_collector_success)", "{{collector}}")],
            unit="none",
            maximum=1,
        ),
    ]
