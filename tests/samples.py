"""A job, a claim and a failure with default values. A test names only the fields that matter to it."""

from uuid import uuid4

from jobs_service.ids import new_id
from jobs_service.jobs.lifecycle import Claim, Failure, NewJob


def new_job(**fields):
    """Return a job that can be submitted: due at once, with three attempts."""
    defaults = {"type": "csv-generation", "payload": "{}", "queue": "default", "priority": 5, "max_attempts": 3}
    return NewJob(**({"id": new_id()} | defaults | fields))


def a_claim(**fields):
    """Return the first attempt of three at a job, as if a worker had claimed it. It has no row in the database."""
    ids = {"job_id": new_id(), "token": uuid4(), "worker_id": uuid4()}
    job = {"type": "t", "queue": "default", "payload": "{}", "attempts": 1, "max_attempts": 3, "worker_losses": 0}
    return Claim(**(ids | job | {"waited_seconds": 0.0, "age_seconds": 0.0} | fields))


def a_failure(**fields):
    return Failure(**({"error": "E", "message": "m", "traceback": "t", "seconds": 0.1} | fields))
