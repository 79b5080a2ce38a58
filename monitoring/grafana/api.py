"""The dashboard "Jobs: API": requests, answers, errors and answer times."""

from pages import Row, dashboard, datasource_variable, label_variable
from panels import Json, Panel, Query, graph, heatmap, stat
from promql import cells, increase, quantile, quantiles, rate

REQUESTS = "http_server_request_duration_seconds"
ROUTES = 'http_route=~"$http_route"'
BROKEN = f'http_response_status_code=~"5..",{ROUTES}'
BY_ROUTE = "{{http_route}}"


def build() -> Json:
    return dashboard(
        uid="jobs-api",
        title="Jobs: API",
        description="Requests, errors and answer times by route, and what was refused and why.",
        variables=[datasource_variable(), label_variable("http_route", "Route", f"{REQUESTS}_count")],
        rows=[
            Row("Health", _health()),
            Row("Requests", _requests()),
            Row("Answer time", _answer_time()),
            Row("Jobs", _jobs()),
            Row("Clients that watch", _watching()),
        ],
    )


def _health() -> list[Panel]:
    every = increase(f"{REQUESTS}_count", "", ROUTES, "1h")
    broken = increase(f"{REQUESTS}_count", "", BROKEN, "1h")
    return [
        stat(
            "Containers that answer",
            "Instances of the API that Prometheus can scrape.",
            'sum(up{job="jobs-api"})',
            unit="none",
            base="red",
            steps={1: "green"},
        ),
        stat(
            "Requests",
            "Requests per second.",
            rate(f"{REQUESTS}_count", "", ROUTES),
            unit="reqps",
            decimals=1,
        ),
        stat(
            "Server errors, last hour",
            "Share of 5xx answers in the last hour. No data: no requests.",
            f"({broken} or vector(0)) / ({every} > 0)",
            unit="percentunit",
            steps={0.001: "orange", 0.01: "red"},
            decimals=2,
        ),
        stat(
            "Answer time, p95",
            "5 % of the requests take longer than this.",
            quantile(0.95, REQUESTS, "", ROUTES),
            unit="s",
            steps={0.5: "orange", 2: "red"},
            decimals=3,
        ),
        stat(
            "Being answered",
            "Requests that the API is processing now.",
            "sum(http_server_active_requests)",
            unit="none",
        ),
        stat(
            "Jobs not published, last hour",
            "Jobs for which Redis refused the message or PostgreSQL the row. The relay publishes the submitted ones.",
            "sum(increase(jobs_submission_errors_total[1h])) or vector(0)",
            unit="none",
            steps={1: "orange"},
        ),
    ]


def _requests() -> list[Panel]:
    every = rate(f"{REQUESTS}_count", "http_route", ROUTES)
    status = "http_response_status_code"
    return [
        graph(
            "Requests by route",
            "Requests per second. Routes are templates; requests that match none share one line.",
            [
                Query(
                    rate(f"{REQUESTS}_count", "http_request_method, http_route", ROUTES),
                    f"{{{{http_request_method}}}} {BY_ROUTE}",
                )
            ],
            unit="reqps",
            width=8,
        ),
        graph(
            "Answers by status",
            "4xx are errors of clients, 5xx are errors of the service.",
            [Query(rate(f"{REQUESTS}_count", status, ROUTES), f"{{{{{status}}}}}")],
            unit="reqps",
            stacked=True,
            width=8,
        ),
        graph(
            "Server errors by route",
            "Share of 5xx answers: a bug, or a server of the service was down.",
            [Query(f"({rate(f'{REQUESTS}_count', 'http_route', BROKEN)} or 0 * {every}) / ({every} > 0)", BY_ROUTE)],
            unit="percentunit",
            width=8,
            maximum=1,
        ),
        graph(
            "Refused, by reason",
            "Requests answered with a problem document, per second, by its code.",
            [Query(rate("jobs_request_rejections_total", "reason", ""), "{{reason}}")],
            unit="reqps",
        ),
        graph(
            "Being answered",
            "Requests that the API is processing. An idle client is not among them.",
            [Query("sum by (instance) (http_server_active_requests)", "{{instance}}")],
            unit="short",
        ),
    ]


def _answer_time() -> list[Panel]:
    return [
        heatmap("Answer time, distribution", "All chosen routes together.", cells(REQUESTS, ROUTES), unit="s", width=8),
        graph("Answer time", "The same as quantiles.", quantiles(REQUESTS, ROUTES), unit="s", width=8),
        graph(
            "Answer time by route, p95",
            "5 % of the requests of each route take longer than this.",
            [Query(quantile(0.95, REQUESTS, "http_route", ROUTES), BY_ROUTE)],
            unit="s",
            width=8,
        ),
        graph(
            "Event loop, how late",
            "Every request of the process waits as long. More than a moment: code blocks the loop, or there is no CPU.",
            quantiles("http_server_event_loop_delay_seconds", ""),
            unit="s",
        ),
    ]


def _jobs() -> list[Panel]:
    return [
        graph(
            "Submitted by source",
            "Jobs submitted per second, by where they came from.",
            [Query(rate("jobs_submitted_total", "source", ""), "{{source}}")],
            unit="ops",
            width=8,
        ),
        graph(
            "Not submitted or not published",
            "Jobs for which Redis refused the message or PostgreSQL the row, in each interval.",
            [Query(increase("jobs_submission_errors_total", "reason", ""), "{{reason}}")],
            unit="short",
            width=8,
        ),
        graph(
            "Payload size",
            "Size of the submitted payloads, as JSON. MAX_BODY_BYTES is the limit.",
            quantiles("jobs_payload_bytes", ""),
            unit="bytes",
            width=8,
        ),
    ]


def _watching() -> list[Panel]:
    return [
        graph(
            "Streams of events",
            "Clients that are sent events of jobs as they happen.",
            [Query("sum by (instance) (jobs_event_streams)", "{{instance}}")],
            unit="short",
            width=8,
        ),
        graph(
            "Events sent",
            "Events per second, counted for each client.",
            [Query(rate("jobs_events_sent_total", "instance", ""), "{{instance}}")],
            unit="ops",
            width=8,
        ),
        graph(
            "Clients dropped",
            "Streams that ended because the client read too slowly, in each interval. It resumes where it was.",
            [Query(increase("jobs_event_readers_dropped_total", "instance", ""), "{{instance}}")],
            unit="short",
            width=8,
        ),
    ]
