"""The dashboard "Jobs: service levels": the objectives, how far they are met, and how fast the error budget is used."""

from pages import Row, cell_link, dashboard, datasource_variable, label_variable, link
from panels import Column, Json, Panel, Query, graph, table, timeline
from promql import QUEUES, increase, truth

BY_QUEUE = "{{queue_name}}"
MONTH = "30d"
#: The burn rates at which the alerts page at once, page later, and open a ticket.
BURNS = {14.4: "red", 6: "orange", 1: "yellow"}


def build() -> Json:
    return dashboard(
        uid="jobs-slo",
        title="Jobs: service levels",
        description="For each queue, how many jobs fail and how often it is late, against the objectives.",
        variables=[datasource_variable(), label_variable("queue_name", "Queue", "jobs_current")],
        rows=[
            Row("The last 30 days", [_month()]),
            Row("Success: the share of jobs that complete", _success()),
            Row("Latency: the share of time in which the first job in line is not late", _latency()),
            Row("API: the share of requests for jobs without a server error", _api()),
        ],
    )


def success_budget_left() -> str:
    """Return, for each queue, the part of the success objective's error budget left after the last 30 days."""
    return _left(_failed_in_a_month(), "success")


def _budget(slo: str) -> str:
    return truth("jobs_queue_slo_error_budget_ratio", "queue_name", f'slo="{slo}",{QUEUES}')


def _left(bad: str, slo: str) -> str:
    """Return the part of the budget that is left if the ratio `bad` missed the objective."""
    return f"1 - {bad} / on (queue_name) {_budget(slo)}"


def _failed_in_a_month() -> str:
    failed = increase("jobs_finished_total", "queue_name", f'outcome="failed",{QUEUES}', MONTH)
    ended = increase("jobs_finished_total", "queue_name", f'outcome=~"completed|failed",{QUEUES}', MONTH)
    return f"{failed} / ({ended} > 0)"


def _late_in_a_month() -> str:
    return f"avg_over_time(queue_name:jobs_late:bool{{{QUEUES}}}[{MONTH}])"


def _month() -> Panel:
    left = {0.25: "orange", 0.5: "green"}
    failed, late = _failed_in_a_month(), _late_in_a_month()
    return table(
        "Objectives",
        "The error budget of 30 days, its use, and the rest. If nothing is left, fix causes before you deploy changes.",
        {"queue_name": "Queue"},
        [
            Column("May fail", _budget("success"), "percentunit", 2),
            Column("Failed", failed, "percentunit", 3),
            Column("Success budget left", success_budget_left(), "percentunit", 1, "red", left),
            Column("Target wait", truth("jobs_queue_slo_latency_seconds", "queue_name"), "s"),
            Column("May be late", _budget("latency"), "percentunit", 2),
            Column("Late", late, "percentunit", 3),
            Column("Latency budget left", _left(late, "latency"), "percentunit", 1, "red", left),
        ],
        leads_to=[cell_link("This queue", "jobs-queue", "queue_name")],
    )


def _burn(title: str, series: str, slo: str) -> Panel:
    return graph(
        title,
        "How fast the budget is used: at 1 it lasts 30 days, at 14.4 two days. Lines: thresholds of alerts.",
        [
            Query(f"{series}{window}{{{QUEUES}}} / on (queue_name) {_budget(slo)}", f"{window}, {BY_QUEUE}")
            for window in ("1h", "6h", "3d")
        ],
        unit="none",
        lines=BURNS,
    )


def _success() -> list[Panel]:
    series = "queue_name:jobs_failed_per_finished:ratio_rate"
    return [
        _burn("Burn rate, success", series, "success"),
        graph(
            "Failed jobs",
            "Share of the jobs that ended in the last hour and failed, and, dashed, the objective.",
            [Query(f"{series}1h{{{QUEUES}}}", BY_QUEUE), Query(_budget("success"), f"budget, {BY_QUEUE}", target=True)],
            unit="percentunit",
        ),
    ]


def _latency() -> list[Panel]:
    series = "queue_name:jobs_late:avg_"
    return [
        timeline(
            "On time",
            "Late: the first job in line has waited longer than the queue's target.",
            Query(f"queue_name:jobs_late:bool{{{QUEUES}}}", BY_QUEUE),
            words={0: ("on time", "green"), 1: ("late", "red")},
        ),
        _burn("Burn rate, latency", series, "latency"),
        graph(
            "Time late",
            "Share of the last hour in which the queue was late, and, dashed, the objective.",
            [Query(f"{series}1h{{{QUEUES}}}", BY_QUEUE), Query(_budget("latency"), f"budget, {BY_QUEUE}", target=True)],
            unit="percentunit",
        ),
    ]


def _api() -> list[Panel]:
    windows = ("5m", "1h", "6h", "1d")
    return [
        graph(
            "Server errors",
            "Share of the requests for jobs with a 5xx answer, in each window. The line is one in a thousand.",
            [Query(f"service:http_server_errors_per_request:ratio_rate{window}", window) for window in windows],
            unit="percentunit",
            width=24,
            lines={0.001: "red"},
            leads_to=[link("API", "jobs-api")],
        )
    ]
