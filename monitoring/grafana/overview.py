"""The dashboard "Jobs overview": health, throughput, latency, failures, and what clients see."""

from pages import Row, cell_link, dashboard, datasource_variable, label_variable, link
from panels import Column, Json, Panel, Query, graph, heatmap, stat, table
from promql import QUEUES, cells, increase, quantile, quantiles, rate, truth
from slo import success_budget_left

PENDING = f'state="pending",{QUEUES}'

TO_QUEUES = link("Queues", "jobs-queue")
TO_THIS_QUEUE = link("This queue", "jobs-queue", label="queue_name")
TO_THIS_TYPE = link("This job type", "jobs-type", label="actor_name")
TO_WORKERS = link("Workers", "jobs-workers")
TO_API = link("API", "jobs-api")
TO_SLO = link("Service levels", "jobs-slo")
TO_MONITORING = link("Alerts and targets", "jobs-monitoring")


def build() -> Json:
    return dashboard(
        uid="jobs-overview",
        title="Jobs overview",
        description="Health, flow, latency and errors of the job system, and what its API's clients see.",
        variables=[datasource_variable(), label_variable("queue_name", "Queue", "jobs_current")],
        rows=[
            Row("Health", [*_verdicts(), *_amounts()]),
            Row("Flow", _flow()),
            Row("Latency", _latency()),
            Row("Errors", _errors()),
            Row("API", _api()),
            Row("Queues", [_queues()]),
        ],
    )


def _ended(outcome: str) -> str:
    """Return how many jobs ended in the last hour with this outcome, a regular expression."""
    return increase("jobs_finished_total", "", f'outcome=~"{outcome}",{QUEUES}', "1h")


def _verdicts() -> list[Panel]:
    return [
        stat(
            "Alerts",
            "Alerts of severity critical or warning that fire now.",
            'count(ALERTS{alertname=~"Jobs.*",alertstate="firing",severity=~"critical|warning"}) or vector(0)',
            unit="none",
            steps={1: "red"},
            width=3,
            leads_to=[TO_MONITORING],
        ),
        stat(
            "Success, last hour",
            "Of the jobs that ended in the last hour, the part that completed. No data: none ended.",
            f"{_ended('completed')} / ({_ended('completed|failed')} > 0)",
            unit="percentunit",
            base="red",
            steps={0.95: "orange", 0.99: "green"},
            decimals=2,
            width=3,
            leads_to=[TO_SLO],
        ),
        stat(
            "Error budget left",
            "Of the jobs that may fail in 30 days, the part that has not, in the queue that has least of it left.",
            f"min({success_budget_left()})",
            unit="percentunit",
            base="red",
            steps={0.25: "orange", 0.5: "green"},
            width=3,
            leads_to=[TO_SLO],
        ),
        stat(
            "Longest wait",
            "How long the first in line of any queue has been able to start.",
            truth("jobs_queue_oldest_eligible_age_seconds", ""),
            unit="s",
            steps={60: "orange", 300: "red"},
            decimals=1,
            width=3,
            leads_to=[TO_QUEUES],
        ),
        stat(
            "Worker processes",
            "Worker processes whose heartbeat in PostgreSQL is fresh. None: nothing is processed.",
            truth("jobs_workers", "", ""),
            unit="none",
            base="red",
            steps={1: "green"},
            width=3,
            leads_to=[TO_WORKERS],
        ),
    ]


def _amounts() -> list[Panel]:
    return [
        stat(
            "Threads in use",
            "The part of all worker threads that is handling a message. At 100 %, jobs wait.",
            "sum(jobs_worker_threads_busy) / (sum(jobs_worker_threads) > 0)",
            unit="percentunit",
            steps={0.8: "orange", 0.95: "red"},
            width=3,
            leads_to=[TO_WORKERS],
        ),
        stat(
            "Waiting now",
            "Jobs that could start at once and wait for a worker.",
            f"sum({truth('jobs_current', 'queue_name', PENDING)})",
            unit="short",
            width=3,
            leads_to=[TO_QUEUES],
        ),
        stat(
            "Dead letters",
            "Jobs in state failed: no further attempt will be made unless somebody asks for it.",
            f"sum({truth('jobs_dead', 'queue_name')})",
            unit="short",
            steps={1: "orange"},
            width=3,
            leads_to=[TO_QUEUES],
        ),
    ]


def _flow() -> list[Panel]:
    return [
        graph(
            "In and out",
            "Jobs accepted by the API, and jobs that ended, by outcome. Accepted above the rest: the backlog grows.",
            [
                Query(rate("jobs_submitted_total", ""), "accepted"),
                Query(rate("jobs_finished_total", "outcome"), "{{outcome}}"),
            ],
            unit="ops",
        ),
        graph(
            "Unfinished jobs by state",
            "Pending could start now; scheduled and retrying wait for their time, deferred for an unavailable server; "
            "processing is with a worker.",
            [Query(f"sum by (state) ({truth('jobs_current', 'queue_name, state')})", "{{state}}")],
            unit="short",
            stacked=True,
        ),
        graph(
            "Backlog by queue",
            "Jobs that could start now, by queue.",
            [Query(truth("jobs_current", "queue_name", PENDING), "{{queue_name}}")],
            unit="short",
            width=8,
            leads_to=[TO_THIS_QUEUE],
        ),
        graph(
            "Time to drain",
            "Seconds until the queue is empty, at the rate of the last ten minutes. No line: no job finishes.",
            [Query(f"queue_name:jobs_drain_seconds:ratio{{{QUEUES}}}", "{{queue_name}}")],
            unit="s",
            width=8,
            leads_to=[TO_THIS_QUEUE],
        ),
        graph(
            "Worker threads",
            "Threads that are handling a message, and all threads. Where the two meet, jobs wait.",
            [
                Query("sum(jobs_worker_threads_busy)", "busy"),
                Query("sum(jobs_worker_threads)", "threads", target=True),
            ],
            unit="short",
            width=8,
            leads_to=[TO_WORKERS],
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
            quantiles("jobs_queue_latency_seconds"),
            unit="s",
        ),
        graph(
            "Longest wait by queue",
            "How long the first job of the queue has been due, as PostgreSQL sees it; 0 if no job is due.",
            [Query(truth("jobs_queue_oldest_eligible_age_seconds", "queue_name"), "{{queue_name}}")],
            unit="s",
            width=8,
            leads_to=[TO_THIS_QUEUE],
        ),
        graph(
            "Run duration by job type, p95",
            "From claim to verdict, whatever the outcome: the slowest twentieth of attempts takes longer.",
            [Query(quantile(0.95, "jobs_run_duration_seconds", "actor_name"), "{{actor_name}}")],
            unit="s",
            width=8,
            leads_to=[TO_THIS_TYPE],
        ),
        graph(
            "End to end",
            "From accepting a job to its last word, delays and retries included.",
            quantiles("jobs_end_to_end_seconds"),
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
            width=8,
            stacked=True,
        ),
        graph(
            "Retried attempts by job type",
            "The part of each type's attempts that failed and are retried. Near 100 %: a server is unavailable.",
            [Query(f"{retried} / ({begun} > 0)", "{{actor_name}}")],
            unit="percentunit",
            width=8,
            maximum=1,
            leads_to=[TO_THIS_TYPE],
        ),
        graph(
            "Dead letters by queue",
            "Jobs in state failed. It falls when they are tried again or deleted.",
            [Query(truth("jobs_dead", "queue_name"), "{{queue_name}}")],
            unit="short",
            width=8,
            leads_to=[TO_THIS_QUEUE],
        ),
    ]


def _api() -> list[Panel]:
    requests = "http_server_request_duration_seconds"
    every = rate(f"{requests}_count", "http_route", "")
    broken = rate(f"{requests}_count", "http_route", 'http_response_status_code=~"5.."')
    return [
        graph(
            "Requests by route",
            "Requests per second. Routes are templates; what matches none of them is one line.",
            [Query(every, "{{http_route}}")],
            unit="reqps",
            width=8,
            leads_to=[TO_API],
        ),
        graph(
            "Server errors by route",
            "The part of the responses that was 5xx: an error of the API, or PostgreSQL was unavailable.",
            [Query(f"({broken} or 0 * {every}) / ({every} > 0)", "{{http_route}}")],
            unit="percentunit",
            width=8,
            maximum=1,
            leads_to=[TO_API],
        ),
        graph(
            "Answer time by route, p95",
            "The slowest twentieth of the requests of each route takes longer than this.",
            [Query(quantile(0.95, requests, "http_route", ""), "{{http_route}}")],
            unit="s",
            width=8,
            leads_to=[TO_API],
        ),
    ]


def _queues() -> Panel:
    latency = quantile(0.95, "jobs_queue_latency_seconds", "queue_name")
    failed = increase("jobs_finished_total", "queue_name", f'outcome="failed",{QUEUES}', "$__range")
    ended = increase("jobs_finished_total", "queue_name", f'outcome=~"completed|failed",{QUEUES}', "$__range")
    return table(
        "Queues",
        "Each queue now, and the part of its jobs that failed in the time range shown.",
        {"queue_name": "Queue"},
        [
            Column("Waiting", truth("jobs_current", "queue_name", PENDING)),
            Column("Longest wait", truth("jobs_queue_oldest_eligible_age_seconds", "queue_name"), "s"),
            Column("Target", truth("jobs_queue_slo_latency_seconds", "queue_name"), "s"),
            Column("Finished per second", rate("jobs_finished_total", "queue_name"), "ops"),
            Column("Latency p95", latency, "s"),
            Column("Failed", f"{failed} / ({ended} > 0)", "percentunit", 2, "text", {0.01: "orange", 0.05: "red"}),
            Column("Dead letters", truth("jobs_dead", "queue_name"), steps={1: "orange"}),
            Column(
                "Consumers", f"sum by (queue_name) (jobs_worker_consumers{{{QUEUES}}})", base="red", steps={1: "green"}
            ),
        ],
        leads_to=[cell_link("This queue", "jobs-queue", "queue_name")],
    )
