"""Counts the warnings and errors that this service and its libraries log, most of which have no metric of their own."""

from jobs_service.metrics import catalogue as metrics

_OURS = "jobs_service."

_capped = metrics.Capped(metrics.LOG_RECORDS, "logger")


def count(level: str, module: str) -> None:
    """Count a log line. Passed to `logs.observe`."""
    metrics.LOG_RECORDS.labels(level, _capped(_logger(module))).inc()


def _logger(module: str) -> str:
    return module.removeprefix(_OURS) if module.startswith(_OURS) else module.partition(".")[0][:64]
