"""The worker's side: `dramatiq bench.straightforward.actors`."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.straightforward.work import write_csv

broker = RedisBroker(url=os.environ["REDIS_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3)
def generate_csv(job_id: str) -> None:
    write_csv(job_id)
