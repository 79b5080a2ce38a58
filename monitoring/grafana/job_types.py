"""The dashboard "Jobs: job type": how many jobs of a type run, how long they take and why they fail."""

from pages import Row, console_link, dashboard, datasource_variable, label_variable
from panels import Column, Json, Panel, Query, graph, heatmap, table
from promql import QUEUES, TYPES, WINDOW, cells, increase, quantile, quantiles, rate, truth

CHOSEN = f"{QUEUES},{TYPES}"
BY_TYPE = "{{actor_name}}"

TO_FAILED = console_link("Its failed jobs, in the console", "/jobs?status=failed&type=", "actor_name")


def build() -> Json:
    return dashboard(
        uid="jobs-type",
        title="Jobs: job type",
        description="One job type or several: how many jobs run, how long, how often they fail and why.",
        variables=[
            datasource_variable(),
            label_variable("queue_name", "Queue", "jobs_current"),
            label_variable("actor_name", "Job type", 'jobs_attempts_total{queue_name=~"$queue_name"}'),
        ],
        rows=[
            Row("Flow", _flow()),
            Row("Duration", _duration()),
            Row("Running", _running()),
            Row("Errors", _errors()),
            Row("How jobs ended", _ends()),
        ],
    )


def _flow() -> list[Panel]:
    completed = rate("jobs_finished_total", "actor_name", f'outcome="completed",{CHOSEN}')
    every = rate("jobs_finished_total", "actor_name", CHOSEN)
    return [
        graph(
            "Submitted",
            "Jobs submitted per second.",
            [Query(rate("jobs_submitted_total", "actor_name", CHOSEN), BY_TYPE)],
            unit="ops",
            width=8,
        ),
        graph(
            "Ended, by outcome",
            "Jobs that reached their last state per second, of all chosen types together.",
            [Query(rate("jobs_finished_total", "outcome", CHOSEN), "{{outcome}}")],
            unit="ops",
            width=8,
        ),
        graph(
            "Completed",
            "Share of the ended jobs of each type that completed. The others failed or were cancelled.",
            [Query(f"{completed} / ({every} > 0)", BY_TYPE)],
            unit="percentunit",
            width=8,
            maximum=1,
            leads_to=[TO_FAILED, console_link("The type, in the console", "/types/", "actor_name")],
        ),
    ]


def _duration() -> list[Panel]:
    return [
        heatmap(
            "Run duration, distribution",
            "Time from an attempt's claim to its result, whatever the outcome.",
            cells("jobs_run_duration_seconds", CHOSEN),
            unit="s",
            width=8,
        ),
        graph(
            "Run duration",
            "The same as quantiles, of all chosen types together.",
            quantiles("jobs_run_duration_seconds", CHOSEN),
            unit="s",
            width=8,
        ),
        graph(
            "Run duration by type, p95",
            "5 % of the attempts of each type take longer than this.",
            [Query(quantile(0.95, "jobs_run_duration_seconds", "actor_name", CHOSEN), BY_TYPE)],
            unit="s",
            width=8,
        ),
    ]


def _running() -> list[Panel]:
    oldest = f"max by (actor_name) (jobs_worker_oldest_running_seconds{{{CHOSEN}}})"
    return [
        graph(
            "Running now",
            "Attempts that run on a worker thread.",
            [Query(f"sum by (actor_name) (jobs_worker_running{{{CHOSEN}}})", BY_TYPE)],
            unit="short",
            width=8,
        ),
        graph(
            "Threads used",
            "Run time per second: how many threads the type keeps busy on average. Use it to plan capacity.",
            [Query(f"sum by (actor_name) (rate(jobs_run_duration_seconds_sum{{{CHOSEN}}}[{WINDOW}]))", BY_TYPE)],
            unit="short",
            width=8,
        ),
        graph(
            "Longest running and time limit",
            "How long the oldest running attempt has been running, and, dashed, its time limit.",
            [
                Query(oldest, BY_TYPE),
                Query(truth("jobs_actor_time_limit_seconds", "actor_name", CHOSEN), f"limit, {BY_TYPE}", target=True),
            ],
            unit="s",
            width=8,
        ),
    ]


def _errors() -> list[Panel]:
    begun = rate("jobs_attempts_total", "actor_name", f'outcome=~"completed|retried|failed",{CHOSEN}')
    retried = rate("jobs_attempts_total", "actor_name", f'outcome="retried",{CHOSEN}')
    classes = increase("jobs_attempt_errors_total", "actor_name, error_type", CHOSEN, "$__range")
    return [
        graph(
            "Retried attempts",
            "Share of the attempts that failed and are retried. Near 100 %: a server the type needs is down.",
            [Query(f"{retried} / ({begun} > 0)", BY_TYPE)],
            unit="percentunit",
            width=8,
            maximum=1,
        ),
        graph(
            "Errors by class",
            "Attempts that ended in an exception, per second, by its class.",
            [Query(rate("jobs_attempt_errors_total", "error_type", CHOSEN), "{{error_type}}")],
            unit="ops",
            width=8,
        ),
        table(
            "Most frequent errors",
            "Attempts that ended in an exception in the time range shown: the ten most frequent classes.",
            {"actor_name": "Job type", "error_type": "Error"},
            [Column("Attempts", f"topk(10, {classes} > 0)")],
            width=8,
            height=8,
        ),
    ]


def _ends() -> list[Panel]:
    return [
        heatmap(
            "Attempts per job",
            "How many attempts a job had used when it ended.",
            cells("jobs_attempts_per_job", CHOSEN),
            unit="none",
            width=8,
        ),
        graph(
            "New dead letters by reason",
            "Jobs that failed for good in each interval, by end_reason.",
            [Query(increase("jobs_dead_letters_total", "reason", CHOSEN), "{{reason}}")],
            unit="short",
            width=8,
        ),
        graph(
            "Taken back, postponed, ambiguous",
            "Jobs of lost workers, attempts that were postponed, and attempts with an unknown outcome.",
            [
                Query(increase("jobs_rescued_total", "", CHOSEN), "taken back"),
                Query(increase("jobs_snoozed_total", "", CHOSEN), "postponed"),
                Query(increase("jobs_attempts_total", "", f'outcome="deferred",{CHOSEN}'), "server unavailable"),
                Query(increase("jobs_ambiguous_total", "policy", CHOSEN), "ambiguous, {{policy}}"),
            ],
            unit="short",
            width=8,
        ),
    ]
