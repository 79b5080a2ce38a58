"""The dashboard "Jobs: queue": one queue, or several side by side: on time, in step with Redis, draining, failing."""

from pages import Row, dashboard, datasource_variable, label_variable, link
from panels import Json, Panel, Query, graph, heatmap, timeline
from promql import QUEUES, cells, increase, quantile, quantiles, rate, truth

PENDING = f'state="pending",{QUEUES}'
BY_QUEUE = "{{queue_name}}"


def build() -> Json:
    return dashboard(
        uid="jobs-queue",
        title="Jobs: queue",
        description="One queue or several: whether it is on time, where its jobs are, what became of them.",
        variables=[datasource_variable(), label_variable("queue_name", "Queue", "jobs_current")],
        rows=[
            Row("On time", [_late(), *_waits()]),
            Row("Where its jobs are", _places()),
            Row("Flow", _flow()),
            Row("Latency", _latency()),
            Row("What became of them", _ends()),
            Row("What went wrong on the way", _mishaps()),
        ],
    )


def _late() -> Panel:
    return timeline(
        "On time",
        "Late: the first in line has waited longer than the queue's target. The service level counts this time.",
        Query(f"queue_name:jobs_late:bool{{{QUEUES}}}", BY_QUEUE),
        words={0: ("on time", "green"), 1: ("late", "red")},
    )


def _waits() -> list[Panel]:
    begun = rate("jobs_started_total", "queue_name")
    return [
        graph(
            "Longest wait and target",
            "How long the first in line has been able to start, and, dashed, how long it may.",
            [
                Query(truth("jobs_queue_oldest_eligible_age_seconds", "queue_name"), BY_QUEUE),
                Query(truth("jobs_queue_slo_latency_seconds", "queue_name"), f"target, {BY_QUEUE}", target=True),
            ],
            unit="s",
        ),
        graph(
            "Begun late",
            "The part of the attempts that began later than the queue's target.",
            [Query(f"{rate('jobs_started_late_total', 'queue_name')} / ({begun} > 0)", BY_QUEUE)],
            unit="percentunit",
            maximum=1,
        ),
    ]


def _places() -> list[Panel]:
    return [
        graph(
            "Unfinished jobs by state",
            "Pending could start now; scheduled and retrying wait for their time, deferred for an unavailable server; "
            "processing is with a worker.",
            [Query(f"sum by (state) ({truth('jobs_current', 'queue_name, state')})", "{{state}}")],
            unit="short",
            stacked=True,
            width=8,
        ),
        graph(
            "PostgreSQL and Redis",
            "Jobs that could start, as rows, and the messages that ring for them. Up to QUEUE_WINDOW rows they are "
            "about equal; rows without messages for long: the relay does not ring.",
            [
                Query(truth("jobs_current", "queue_name", PENDING), f"rows, {BY_QUEUE}"),
                Query(truth("jobs_broker_messages", "queue_name"), f"messages, {BY_QUEUE}"),
            ],
            unit="short",
            width=8,
        ),
        graph(
            "Left lying",
            "What maintenance corrects within seconds: unpublished due jobs, and jobs of workers without a heartbeat.",
            [
                Query(truth("jobs_scheduled_overdue", "queue_name"), f"overdue, {BY_QUEUE}"),
                Query(truth("jobs_stale_processing", "queue_name"), f"stale, {BY_QUEUE}"),
            ],
            unit="short",
            width=8,
            leads_to=[link("Maintenance", "jobs-workers")],
        ),
    ]


def _flow() -> list[Panel]:
    return [
        graph(
            "In and out",
            "Jobs accepted by the API, and jobs that ended, by outcome.",
            [
                Query(rate("jobs_submitted_total", ""), "accepted"),
                Query(rate("jobs_finished_total", "outcome"), "{{outcome}}"),
            ],
            unit="ops",
            width=8,
        ),
        graph(
            "Time to drain",
            "Seconds until the queue is empty, at the rate of the last ten minutes. No line: no job finishes.",
            [Query(f"queue_name:jobs_drain_seconds:ratio{{{QUEUES}}}", BY_QUEUE)],
            unit="s",
            width=8,
        ),
        graph(
            "Consumers",
            "Threads that take messages from the queue, one for each worker process. None: its jobs wait for ever.",
            [Query(f"sum by (queue_name) (jobs_worker_consumers{{{QUEUES}}})", BY_QUEUE)],
            unit="short",
            width=8,
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
            "Queue latency by queue, p95",
            "The same; a twentieth of the attempts started later than this. Dashed: the target.",
            [
                Query(quantile(0.95, "jobs_queue_latency_seconds", "queue_name"), BY_QUEUE),
                Query(truth("jobs_queue_slo_latency_seconds", "queue_name"), f"target, {BY_QUEUE}", target=True),
            ],
            unit="s",
        ),
        heatmap(
            "End to end, distribution",
            "From accepting a job to its last word, delays and retries included.",
            cells("jobs_end_to_end_seconds"),
            unit="s",
        ),
        graph("End to end", "The same as quantiles.", quantiles("jobs_end_to_end_seconds"), unit="s"),
    ]


def _ends() -> list[Panel]:
    oldest = truth("jobs_dead_oldest_timestamp_seconds", "queue_name")
    return [
        heatmap(
            "Attempts per job",
            "How many attempts a job had used when it ended.",
            cells("jobs_attempts_per_job"),
            unit="none",
            width=6,
        ),
        graph(
            "New dead letters by reason",
            "Jobs that failed for good in each interval, by end_reason.",
            [Query(increase("jobs_dead_letters_total", "reason"), "{{reason}}")],
            unit="short",
            width=6,
        ),
        graph(
            "Dead letters and limit",
            "Jobs in state failed, and, dashed, how many are too many. It falls when they are tried again or deleted.",
            [
                Query(truth("jobs_dead", "queue_name"), BY_QUEUE),
                Query(truth("jobs_queue_dead_limit", "queue_name"), f"limit, {BY_QUEUE}", target=True),
            ],
            unit="short",
            width=6,
        ),
        graph(
            "Age of the oldest dead letter",
            "How long ago the job failed that has been a dead letter longest. No line: there is none.",
            [Query(f"time() - {oldest}", BY_QUEUE)],
            unit="s",
            width=6,
        ),
    ]


def _mishaps() -> list[Panel]:
    return [
        graph(
            "Taken back from lost workers",
            "Jobs rescued in each interval: their worker was killed, or silent for longer than its lease.",
            [Query(increase("jobs_rescued_total", "queue_name"), BY_QUEUE)],
            unit="short",
            width=8,
        ),
        graph(
            "Messages set aside",
            "Messages in Redis that could not be decoded, in each interval. Somebody else writes there.",
            [Query(increase("jobs_quarantined_total", "queue_name"), BY_QUEUE)],
            unit="short",
            width=8,
        ),
        graph(
            "Put off, and in doubt",
            "Attempts that were postponed and do not count, and attempts with an unknown outcome, in each interval.",
            [
                Query(increase("jobs_snoozed_total", ""), "put off"),
                Query(increase("jobs_attempts_total", "", f'outcome="deferred",{QUEUES}'), "server unavailable"),
                Query(increase("jobs_ambiguous_total", "policy"), "in doubt, {{policy}}"),
            ],
            unit="short",
            width=8,
        ),
    ]
