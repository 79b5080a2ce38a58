"""The store of files that the settings name."""

from pathlib import Path

from jobs_service.circuit_breaker import CircuitBreaker
from jobs_service.config import Settings
from jobs_service.output_url import location_of
from jobs_service.outputs.contract import OutputStore
from jobs_service.outputs.local import LocalOutputs


def open_outputs(
    settings: Settings, *, timeout_seconds: float | None = None, pause_seconds: float = 0.0
) -> OutputStore:
    """Return the store. It connects to nothing before the first call.

    `timeout_seconds` is how long a call may wait for a store elsewhere, by default OUTPUT_TIMEOUT_SECONDS. After one
    that failed, calls are refused at once for `pause_seconds`. Raises `SettingsError`.
    """
    if not settings.output_url:
        return LocalOutputs(Path(settings.output_dir))
    # Imported where it is needed: the client takes memory and a moment.
    from jobs_service.outputs.s3 import S3Outputs

    seconds = settings.output_timeout_seconds
    if timeout_seconds is not None:
        seconds = min(seconds, timeout_seconds)
    breaker = CircuitBreaker(open_seconds=pause_seconds, trial_seconds=seconds if pause_seconds else 0.0)
    return S3Outputs(location_of(settings.output_url), timeout_seconds=seconds, breaker=breaker)
