"""The worker's side: `celery --app bench.celery_app.tasks worker --pool threads`."""

import os

from celery import Celery

from bench.straightforward.work import write_csv

app = Celery("jobs", broker=os.environ["REDIS_URL"])
app.conf.update(
    # The message goes when the task has returned, not before it begins: a task that is done twice leaves the same row
    # and file, one that is lost leaves a job that never ends.
    task_acks_late=True,
    # The row holds the result, so Celery needs no store of results.
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task(autoretry_for=(Exception,), max_retries=3, retry_backoff=True)
def generate_csv(job_id: str) -> None:
    write_csv(job_id)
