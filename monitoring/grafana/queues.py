"""The dashboard "Jobs: queue": whether queues are on time, agree with Redis and drain, and how their jobs end."""

from pages import Row, console_link, dashboard, datasource_variable, label_variable, link
from panels import Json, Panel, Query, graph, heatmap, timeline
from promql import QUEUES, cells, increase, quantile, quantiles, rate, truth

PENDING = f'state="pending",{QUEUES}'
BY_QUEUE = "{{queue_name}}"


def build() -> Json:
    return dashboard(
        uid="jobs-queue",
        title="Jobs: queue",
        description="One queue or several: whether it is on time, where its jobs are, and how they ended.",
        variables=[datasource_variable(), label_variable("queue_name", "Queue", "jobs_current")],
        rows=[
            Row("On time", [_late(), _paused(), *_waits()]),
            Row("Where its jobs are", _places()),
            Row("Flow", _flow()),
            Row("Latency", _latency()),
            Row("How jobs ended", _ends()),
            Row("Actions on many jobs", _decisions()),
            Row("Faults", _mishaps()),
        ],
    )


def _late() -> Panel:
    return timeline(
        "On time",
        "Late: the first job in line has waited longer than the queue's target. The objective counts this time.",
        Query(f"queue_name:jobs_late:bool{{{QUEUES}}}", BY_QUEUE),
        words={0: ("on time", "green"), 1: ("late", "red")},
    )


def _paused() -> Panel:
    return timeline(
        "Paused",
        "While a queue is paused, none of its jobs starts, and whether it is late is not recorded.",
        Query(truth("jobs_queue_paused", "queue_name"), BY_QUEUE),
        words={0: ("runs", "green"), 1: ("paused", "yellow")},
    )


def _waits() -> list[Panel]:
    begun = rate("jobs_started_total", "queue_name")
    return [
        graph(
            "Longest wait and target",
            "How long the first job in line has been able to start, and, dashed, the queue's target.",
            [
                Query(truth("jobs_queue_oldest_eligible_age_seconds", "queue_name"), BY_QUEUE),
                Query(truth("jobs_queue_slo_latency_seconds", "queue_name"), f"target, {BY_QUEUE}", target=True),
            ],
            unit="s",
            leads_to=[console_link("Its waiting jobs, in the console", "/jobs?status=pending&queue=", "queue_name")],
        ),
        graph(
            "Started late",
            "Share of the attempts that started later than the queue's target.",
            [Query(f"{rate('jobs_started_late_total', 'queue_name')} / ({begun} > 0)", BY_QUEUE)],
            unit="percentunit",
            maximum=1,
        ),
    ]


def _places() -> list[Panel]:
    return [
        graph(
            "Unfinished jobs by state",
            "Pending could start now; scheduled and retrying wait for their date, deferred for a server; "
            "processing run on a worker.",
            [Query(f"sum by (state) ({truth('jobs_current', 'queue_name, state')})", "{{state}}")],
            unit="short",
            stacked=True,
            width=8,
        ),
        graph(
            "PostgreSQL and Redis",
            "Rows of jobs that could start, and their messages in Redis. Up to QUEUE_WINDOW they are "
            "about equal. Rows without messages for minutes: the relay does not publish.",
            [
                Query(truth("jobs_current", "queue_name", PENDING), f"rows, {BY_QUEUE}"),
                Query(truth("jobs_broker_messages", "queue_name"), f"messages, {BY_QUEUE}"),
            ],
            unit="short",
            width=8,
        ),
        graph(
            "Overdue and stale",
            "Due jobs that are not published, and jobs of lost workers. Maintenance should take seconds for both.",
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
            "Jobs submitted, and jobs that ended, by outcome.",
            [
                Query(rate("jobs_submitted_total", ""), "submitted"),
                Query(rate("jobs_finished_total", "outcome"), "{{outcome}}"),
            ],
            unit="ops",
            width=8,
        ),
        graph(
            "Time to drain",
            "Seconds until the backlog is empty at the rate of the last ten minutes. No line: no job finishes.",
            [Query(f"queue_name:jobs_drain_seconds:ratio{{{QUEUES}}}", BY_QUEUE)],
            unit="s",
            width=8,
        ),
        graph(
            "Consumers",
            "Threads that take messages from the queue, one for each worker process. None: its jobs do not start.",
            [Query(f"sum by (queue_name) (jobs_worker_consumers{{{QUEUES}}})", BY_QUEUE)],
            unit="short",
            width=8,
        ),
    ]


def _latency() -> list[Panel]:
    return [
        heatmap(
            "Queue latency, distribution",
            "Time from when an attempt could start to when it did. Requested delays do not count.",
            cells("jobs_queue_latency_seconds"),
            unit="s",
        ),
        graph(
            "Queue latency by queue, p95",
            "The same: 5 % of the attempts waited longer than this. Dashed: the target.",
            [
                Query(quantile(0.95, "jobs_queue_latency_seconds", "queue_name"), BY_QUEUE),
                Query(truth("jobs_queue_slo_latency_seconds", "queue_name"), f"target, {BY_QUEUE}", target=True),
            ],
            unit="s",
        ),
        heatmap(
            "End to end, distribution",
            "Time from the submission of a job to its end, delays and retries included.",
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
            "Failed jobs, and, dashed, the limit. The number falls when they are run again or deleted.",
            [
                Query(truth("jobs_dead", "queue_name"), BY_QUEUE),
                Query(truth("jobs_queue_dead_limit", "queue_name"), f"limit, {BY_QUEUE}", target=True),
            ],
            unit="short",
            width=6,
        ),
        graph(
            "Age of the oldest dead letter",
            "Age of the oldest dead letter. No line: there is none.",
            [Query(f"time() - {oldest}", BY_QUEUE)],
            unit="s",
            width=6,
        ),
    ]


def _decisions() -> list[Panel]:
    return [
        graph(
            "Running",
            "Redrives, discards and cancellations of many: how many run, and the jobs they have left in all queues.",
            [
                Query(truth("jobs_bulk_actions_running", "kind", ""), "{{kind}}: running"),
                Query(truth("jobs_bulk_actions_remaining", "kind", ""), "{{kind}}: jobs left"),
            ],
            unit="short",
            width=8,
        ),
        graph(
            "Done by them",
            "Their members in each interval: moved (pending again, deleted or cancelled), or skipped because they had "
            "changed. Ended: actions.",
            [
                Query(increase("jobs_bulk_action_jobs_total", "kind, outcome", ""), "{{kind}}: {{outcome}}"),
                Query(increase("jobs_bulk_actions_total", "kind, state", ""), "{{kind}}: ended, {{state}}"),
            ],
            unit="short",
            width=8,
        ),
        graph(
            "Discarded",
            "Dead letters that a person deleted in each interval.",
            [Query(increase("jobs_discarded_total", "queue_name"), BY_QUEUE)],
            unit="short",
            width=8,
        ),
    ]


def _mishaps() -> list[Panel]:
    return [
        graph(
            "Taken back from lost workers",
            "Jobs rescued in each interval: their worker was killed, or silent for longer than the lease.",
            [Query(increase("jobs_rescued_total", "queue_name"), BY_QUEUE)],
            unit="short",
            width=8,
        ),
        graph(
            "Messages set aside",
            "Messages in Redis that could not be decoded, in each interval. Another program writes there.",
            [Query(increase("jobs_quarantined_total", "queue_name"), BY_QUEUE)],
            unit="short",
            width=8,
        ),
        graph(
            "Postponed and ambiguous",
            "Attempts that were postponed, and attempts with an unknown outcome, in each interval.",
            [
                Query(increase("jobs_snoozed_total", ""), "postponed"),
                Query(increase("jobs_attempts_total", "", f'outcome="deferred",{QUEUES}'), "server unavailable"),
                Query(increase("jobs_ambiguous_total", "policy"), "ambiguous, {{policy}}"),
            ],
            unit="short",
            width=8,
        ),
    ]
