"""The dashboard "Jobs: monitoring itself": whether the other dashboards and the alerts can be trusted."""

from pages import Row, dashboard, datasource_variable, link
from panels import Column, Json, Panel, Query, graph, stat, table, timeline
from promql import increase, quantile, rate, truth

FIRING = 'ALERTS{alertname=~"Jobs.*",alertstate="firing",severity!="none"}'
BY_TARGET = "{{job}} {{instance}}"
BY_JOB = "{{job}}"


def build() -> Json:
    return dashboard(
        uid="jobs-monitoring",
        title="Jobs: monitoring itself",
        description="Alerts, targets, collectors, rules and the canary: whether the other pages can be believed.",
        variables=[datasource_variable()],
        rows=[
            Row("Alerts", [*_health(), _alerts()]),
            Row("Targets", _targets()),
            Row("Collectors and canary", [*_collectors(), *_canary()]),
            Row("Prometheus and Alertmanager", _prometheus()),
            Row("Under Dramatiq's names", _dramatiq()),
        ],
    )


def _health() -> list[Panel]:
    return [
        stat(
            "Targets down",
            "Instances Prometheus knows of and gets no answer from.",
            "sum(1 - up)",
            unit="none",
            steps={1: "red"},
        ),
        stat(
            "Watchdog",
            "1 while the alert that always fires does. None: no rule is evaluated, no alert can fire.",
            'count(ALERTS{alertname="JobsWatchdog",alertstate="firing"}) or vector(0)',
            unit="none",
            base="red",
            steps={1: "green"},
        ),
        stat(
            "Slowest collector",
            "How long ago the collector that has failed for longest was last answered.",
            f"max(time() - {truth('jobs_collector_last_success_timestamp_seconds', 'collector', '')})",
            unit="s",
            steps={60: "orange", 120: "red"},
            decimals=1,
        ),
        stat(
            "Rules that failed, last hour",
            "Evaluations of a rule that ended in an error.",
            "sum(increase(prometheus_rule_evaluation_failures_total[1h]))",
            unit="none",
            steps={1: "red"},
        ),
        stat(
            "Alerts not delivered, last hour",
            "Alerts that Prometheus could not pass on, and notifications the Alertmanager could not send.",
            "sum(increase(prometheus_notifications_dropped_total[1h]))"
            " + (sum(increase(alertmanager_notifications_failed_total[1h])) or vector(0))",
            unit="none",
            steps={1: "red"},
        ),
        stat(
            "Series",
            "Series in Prometheus' memory.",
            "sum(prometheus_tsdb_head_series)",
            unit="short",
        ),
    ]


def _alerts() -> Panel:
    return table(
        "Firing alerts",
        "What fires now, by severity. What each means and what to do about it: the runbooks.",
        {"alertname": "Alert", "severity": "Severity", "queue_name": "Queue"},
        [Column("Series", f"count by (alertname, severity, queue_name) ({FIRING})")],
        height=6,
        leads_to=[link("Runbooks", "jobs-runbooks")],
    )


def _targets() -> list[Panel]:
    return [
        timeline(
            "Targets",
            "Whether each instance answered Prometheus.",
            Query("up", BY_TARGET),
            words={0: ("down", "red"), 1: ("up", "green")},
        ),
        graph(
            "Time to scrape",
            "What an instance takes to answer Prometheus. The limit is ten seconds.",
            [Query("max by (job, instance) (scrape_duration_seconds)", BY_TARGET)],
            unit="s",
            width=8,
        ),
        graph(
            "Samples in a scrape",
            "Series an instance serves. At 20,000, the line, its whole scrape is refused.",
            [Query("max by (job, instance) (scrape_samples_scraped)", BY_TARGET)],
            unit="short",
            width=8,
            lines={20_000: "red"},
        ),
        graph(
            "New series in a scrape",
            "Series that were not there before. High for long: a label has values without end.",
            [Query("sum by (job) (scrape_series_added)", BY_JOB)],
            unit="short",
            width=8,
        ),
    ]


def _collectors() -> list[Panel]:
    age = f"time() - {truth('jobs_collector_last_success_timestamp_seconds', 'collector', '')}"
    return [
        graph(
            "Collectors that are answered",
            "Below 1, an app or a worker could not read that group of gauges: panels show gaps.",
            [Query("min by (collector) (jobs_collector_success)", "{{collector}}")],
            unit="none",
            width=8,
            maximum=1,
        ),
        graph(
            "Time to collect",
            "What each collector's look at PostgreSQL or Redis takes.",
            [Query(truth("jobs_collector_duration_seconds", "collector", ""), "{{collector}}")],
            unit="s",
            width=8,
        ),
        graph(
            "Since the last answer",
            "How long ago each collector was last answered.",
            [Query(age, "{{collector}}")],
            unit="s",
            width=8,
        ),
    ]


def _canary() -> list[Panel]:
    age = f"time() - {truth('jobs_canary_last_success_timestamp_seconds', 'queue_name', '')}"
    to_queue = [link("This queue", "jobs-queue", label="queue_name")]
    return [
        graph(
            "Canary, end to end",
            "How long the last canary took from the API to its last word. It is a job like any other, once a minute.",
            [Query(truth("jobs_canary_latency_seconds", "queue_name", ""), "{{queue_name}}")],
            unit="s",
            leads_to=to_queue,
        ),
        graph(
            "Since the last canary",
            "How long ago a canary of each queue last completed. Minutes: no job of this queue gets through.",
            [Query(age, "{{queue_name}}")],
            unit="s",
            lines={180: "red"},
            leads_to=to_queue,
        ),
    ]


def _prometheus() -> list[Panel]:
    return [
        graph(
            "Time to evaluate",
            "What the last evaluation of each group of rules took. Beyond the interval, evaluations are missed.",
            [Query("max by (rule_group) (prometheus_rule_group_last_duration_seconds)", "{{rule_group}}")],
            unit="s",
            width=8,
        ),
        graph(
            "Alerts passed on",
            "Alerts Prometheus handed to an Alertmanager, and those it dropped, per second.",
            [
                Query(rate("prometheus_notifications_sent_total", "", ""), "sent"),
                Query(rate("prometheus_notifications_dropped_total", "", ""), "dropped"),
            ],
            unit="cps",
            width=8,
        ),
        graph(
            "Notifications",
            "What the Alertmanager sent in each interval, and what it could not send, by kind of receiver.",
            [
                Query(increase("alertmanager_notifications_total", "integration", ""), "{{integration}}"),
                Query(
                    increase("alertmanager_notifications_failed_total", "integration", ""), "failed, {{integration}}"
                ),
            ],
            unit="short",
            width=8,
        ),
    ]


def _dramatiq() -> list[Panel]:
    return [
        graph(
            "Messages",
            "The counters of Dramatiq's own middleware, made of ours, for dashboards that know them.",
            [
                Query(rate("dramatiq_messages_total", "", ""), "messages"),
                Query(rate("dramatiq_message_errors_total", "", ""), "errors"),
                Query(rate("dramatiq_message_retries_total", "", ""), "retries"),
                Query(rate("dramatiq_message_rejects_total", "", ""), "rejects"),
            ],
            unit="ops",
            width=8,
        ),
        graph(
            "In progress",
            "Attempts running now; delayed is 0, because delays are kept in PostgreSQL.",
            [
                Query("sum(dramatiq_messages_inprogress)", "running"),
                Query("sum(dramatiq_delayed_messages_inprogress)", "delayed"),
            ],
            unit="short",
            width=8,
        ),
        graph(
            "Run duration, p95",
            "In milliseconds, as its name says.",
            [Query(quantile(0.95, "dramatiq_message_duration_milliseconds", "actor_name", ""), "{{actor_name}}")],
            unit="ms",
            width=8,
        ),
    ]
