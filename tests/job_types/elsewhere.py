"""A job type with a queue of its own: loaded by ACTOR_MODULES=trying,elsewhere."""

import time
from pathlib import Path
from typing import Any

from jobs_service.jobs.job_types import JobContext, job


@job("test-elsewhere", payload=dict[str, Any], queue="elsewhere")
def elsewhere(payload: dict[str, Any], context: JobContext) -> None:
    """Do nothing."""


@job("test-wait-elsewhere", payload=dict[str, Any], queue="elsewhere", time_limit_seconds=60)
def wait_elsewhere(payload: dict[str, Any], context: JobContext) -> None:
    """Append the job's id to `started`, then wait until a file with that name is in the folder `go`."""
    with Path(payload["started"]).open("a") as started:
        started.write(f"{context.job_id}\n")
    while not (Path(payload["go"]) / str(context.job_id)).exists():
        time.sleep(0.02)
