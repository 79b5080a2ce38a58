"""The dashboard "Jobs: API": the requests of clients, the responses, and how long they take."""

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
            "The part of the responses in the last hour that was 5xx. No data: there were no requests.",
            f"({broken} or vector(0)) / ({every} > 0)",
            unit="percentunit",
            steps={0.001: "orange", 0.01: "red"},
            decimals=2,
        ),
        stat(
            "Answer time, p95",
            "The slowest twentieth of the requests takes longer than this.",
            quantile(0.95, REQUESTS, "", ROUTES),
            unit="s",
            steps={0.5: "orange", 2: "red"},
            decimals=3,
        ),
        stat(
            "Being answered",
            "Requests the API is busy with now.",
            "sum(http_server_active_requests)",
            unit="none",
        ),
        stat(
            "Submission errors, last hour",
            "Redis did not take a message, which the relay will publish, or PostgreSQL did not take a row.",
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
            "Requests per second. Routes are templates; what matches none of them is one line.",
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
            "4xx are the clients' mistakes, 5xx are ours.",
            [Query(rate(f"{REQUESTS}_count", status, ROUTES), f"{{{{{status}}}}}")],
            unit="reqps",
            stacked=True,
            width=8,
        ),
        graph(
            "Server errors by route",
            "The part of the responses that was 5xx: an error of the API, or PostgreSQL was unavailable.",
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
            "Requests the API is busy with. At API_PROCESSES x API_THREADS, further ones wait.",
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
            "The slowest twentieth of the requests of each route takes longer than this.",
            [Query(quantile(0.95, REQUESTS, "http_route", ROUTES), BY_ROUTE)],
            unit="s",
            width=8,
        ),
    ]


def _jobs() -> list[Panel]:
    return [
        graph(
            "Accepted by source",
            "Jobs accepted per second, by where they came from.",
            [Query(rate("jobs_submitted_total", "source", ""), "{{source}}")],
            unit="ops",
            width=8,
        ),
        graph(
            "Submission errors",
            "Times Redis did not take a message, or PostgreSQL a row, in each interval.",
            [Query(increase("jobs_submission_errors_total", "reason", ""), "{{reason}}")],
            unit="short",
            width=8,
        ),
        graph(
            "Payload size",
            "Bytes of the accepted payloads, as JSON. MAX_BODY_BYTES is the limit.",
            quantiles("jobs_payload_bytes", ""),
            unit="bytes",
            width=8,
        ),
    ]
