"""A job type whose effect can be counted outside of the database: a line in a file."""

import os
import time
from pathlib import Path

import msgspec

from jobs_service.errors import Rejected
from jobs_service.jobs.job_types import Attempt, job


class Effect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the attempts do: fail so often, or be rejected; after the effect, take some seconds."""

    fail_times: int = 0
    rejected: bool = False
    seconds: float = 0


@job("test-effect", payload=Effect, time_limit_seconds=60)
def effect(payload: Effect, attempt: Attempt) -> int:
    """Append the job's id and the attempt's number to EFFECTS_FILE, once begin_effect allows it."""
    if payload.rejected:
        raise Rejected("as asked")
    if attempt.number <= payload.fail_times:
        raise RuntimeError(f"attempt {attempt.number} fails, as asked")
    attempt.begin_effect()
    with Path(os.environ["EFFECTS_FILE"]).open("a") as file:
        file.write(f"{attempt.job_id} {attempt.number}\n")
    time.sleep(payload.seconds)
    return attempt.number
