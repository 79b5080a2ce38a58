"""The work of a job, in a worker of the versions that are written plainly.

The same functions as in the service write the text and the file, so that all sides do the same work.
"""

import os
from pathlib import Path

from actors.generate_csv import to_csv
from bench.straightforward.models import Job, database, utcnow
from jobs_service.outputs.local import LocalOutputs

outputs = LocalOutputs(Path(os.environ["OUTPUT_DIR"]))


def write_csv(job_id: str) -> None:
    """Mark the job as processing, write its file, and mark it as completed."""
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
