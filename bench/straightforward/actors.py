"""The worker's side: `dramatiq bench.straightforward.actors`.

The same functions as in the service write the text and the file, so that both sides do the same work.
"""

import os
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from actors.generate_csv import to_csv
from bench.straightforward.models import Job, database, utcnow
from jobs_service.outputs.local import LocalOutputs

broker = RedisBroker(url=os.environ["REDIS_URL"])
dramatiq.set_broker(broker)
outputs = LocalOutputs(Path(os.environ["OUTPUT_DIR"]))


@dramatiq.actor(max_retries=3)
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
