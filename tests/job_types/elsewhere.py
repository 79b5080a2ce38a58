"""A job type with a queue of its own: loaded by ACTOR_MODULES=trying,elsewhere."""

from typing import Any

from jobs_service.jobs.job_types import Attempt, job


@job("test-elsewhere", payload=dict[str, Any], queue="elsewhere")
def elsewhere(payload: dict[str, Any], attempt: Attempt) -> None:
    """Do nothing."""
