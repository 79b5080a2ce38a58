"""A job type with a queue of its own: loaded by ACTOR_MODULES=trying,elsewhere."""

from typing import Any

from jobs_service.jobs.job_types import JobContext, job


@job("test-elsewhere", payload=dict[str, Any], queue="elsewhere")
def elsewhere(payload: dict[str, Any], context: JobContext) -> None:
    """Do nothing."""
