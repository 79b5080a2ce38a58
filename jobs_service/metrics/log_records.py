"""Counts log lines: what libraries and our own code warned of, also where no metric of its own says so."""

from jobs_service.metrics import catalogue as metrics

_OURS = "jobs_service."

_capped = metrics.Capped(metrics.LOG_RECORDS, "logger")


def count(level: str, module: str) -> None:
    """Count a line. Given to `logs.observe`."""
    metrics.LOG_RECORDS.labels(level, _capped(_logger(module))).inc()


def _logger(module: str) -> str:
    return module.rpartition(".")[2] if module.startswith(_OURS) else module.partition(".")[0][:64]
