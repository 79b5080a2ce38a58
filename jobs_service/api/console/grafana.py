"""Links to Grafana's dashboards, those of monitoring/grafana, at a certain time: from `start` to `end`, or to now."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

#: What is shown before and after what a link is about: enough scrapes for a rate.
MARGIN = timedelta(minutes=15)


def type_dashboard(grafana_url: str, job_type: str, *, start: datetime, end: datetime | None = None) -> str:
    """Return the address of the dashboard of a job type around this time."""
    return _address(grafana_url, "jobs-type", {"actor_name": job_type}, start, end)


def queue_dashboard(grafana_url: str, queue: str, *, start: datetime, end: datetime | None = None) -> str:
    """Return the address of the dashboard of a queue around this time."""
    return _address(grafana_url, "jobs-queue", {"queue_name": queue}, start, end)


def workers_dashboard(grafana_url: str, *, start: datetime, end: datetime | None = None) -> str:
    """Return the address of the dashboard of the workers around this time."""
    return _address(grafana_url, "jobs-workers", {}, start, end)


class Dashboards:
    """The addresses of dashboards from an hour ago to now, for templates; "" where GRAFANA_URL is not set."""

    def __init__(self, grafana_url: str) -> None:
        self._url = grafana_url

    def type(self, name: str) -> str:
        return self._url and type_dashboard(self._url, name, start=self._start)

    def queue(self, name: str) -> str:
        return self._url and queue_dashboard(self._url, name, start=self._start)

    def workers(self) -> str:
        return self._url and workers_dashboard(self._url, start=self._start)

    @property
    def _start(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1) + MARGIN


def _address(grafana_url: str, uid: str, variables: dict[str, str], start: datetime, end: datetime | None) -> str:
    times = {"from": _milliseconds(start - MARGIN), "to": _milliseconds(end + MARGIN) if end else "now"}
    query = urlencode(times | {f"var-{name}": value for name, value in variables.items()})
    return f"{grafana_url}/d/{uid}?{query}"


def _milliseconds(moment: datetime) -> str:
    return str(round(moment.timestamp() * 1_000))
