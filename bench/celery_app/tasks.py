"""The worker's side: `celery --app bench.celery_app.tasks worker --pool threads`.

The text and the file are made by the very functions that the service uses, so that both sides do the same work.
"""

import os
from pathlib import Path

from celery import Celery

from actors.generate_csv import to_csv
from bench.straightforward.models import Job, database, utcnow
from jobs_service.outputs.local import LocalOutputs

app = Celery("jobs", broker=os.environ["REDIS_URL"])
app.conf.update(
    # The message goes when the task has returned, not before it begins: a task that is done twice leaves the same row
    # and file, one that is lost leaves a job that never ends.
    task_acks_late=True,
    # The row holds the result, so Celery needs no store of results.
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)
outputs = LocalOutputs(Path(os.environ["OUTPUT_DIR"]))


@app.task(autoretry_for=(Exception,), max_retries=3, retry_backoff=True)
def generate_csv(job_id: str) -> None:
    with database.connection_context():
        job = Job.get_by_id(job_id)
        job.status = "processing"
        job.attempts += 1
        job.updated_at = utcnow()
        job.save()

        job.result = outputs.write(f"{job_id}.csv", to_csv(job.payload).encode())
        job.status = "completed"
        job.updated_at = utcnow()
        job.save()
