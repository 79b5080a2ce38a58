"""Parts of the service on real servers, built as the service builds them."""

import time
from uuid import UUID, uuid4

import dramatiq
import msgspec
import pytest
from rows import add_worker, claim_one, complete_one
from samples import new_job
from time_travel import DAY, set_dates

from jobs_service import events
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.epoch import Epoch
from jobs_service.broker.redis import JobBroker
from jobs_service.jobs import lifecycle
from jobs_service.jobs.deferral import Deferral
from jobs_service.outputs.local import LocalOutputs
from jobs_service.worker.assembly import build_lifecycle_sync
from jobs_service.worker.attempt import RunningAttempts


@pytest.fixture
def broker(settings):
    broker = JobBroker.from_settings(settings)
    broker.declare_queue("default")
    yield broker
    broker.close()


@pytest.fixture
def dead_letters(broker):
    return DeadLetterList(broker.client, broker.keys)


@pytest.fixture
def lifecycle_sync(database, broker, dead_letters, worker_id):
    """The middleware of a worker that knows one job type. Its settler thread has not started."""
    options = {"is_canary": False}
    dramatiq.Actor(print, broker=broker, actor_name="csv-generation", queue_name="default", priority=0, options=options)
    return build_lifecycle_sync(
        database,
        broker,
        dead_letters,
        RunningAttempts(),
        worker_id,
        claiming=database,
        completing=database,
        threads=4,
        give_back_seconds=5,
        deferral=Deferral(),
    )


@pytest.fixture
def epoch(broker):
    return Epoch(broker.client, broker.keys)


@pytest.fixture
def announced():
    """The events of this process since the test began."""
    announced = []
    events.subscribe("test", announced.append)
    yield announced
    events._subscribers.remove(("test", announced.append))


@pytest.fixture
def worker_id(database):
    """A worker whose heartbeat is fresh."""
    worker_id = uuid4()
    add_worker(database, worker_id)
    return worker_id


@pytest.fixture
def submit(database):
    """Write a pending job and return its id."""

    def submit(*, payload=None, **fields):
        job = new_job(payload=msgspec.json.encode(payload or {}).decode(), **fields)
        lifecycle.submit(database, [job])
        return job.id

    return submit


@pytest.fixture
def row(database):
    """Return the named columns of a job."""

    def row(job_id, *columns):
        found = database.row(f"SELECT {', '.join(columns)} FROM jobs WHERE id = %s", (job_id,))
        return found[0] if found and len(columns) == 1 else found

    return row


@pytest.fixture
def outputs(tmp_path):
    return LocalOutputs(tmp_path / "output")


@pytest.fixture
def finish(database, submit, worker_id, outputs):
    """Write jobs that were submitted and completed this many days ago, and return their ids."""

    def finish(*, days, count=1):
        job_ids = []
        for _ in range(count):
            claim = claim_one(database, submit(), worker_id)
            complete_one(database, claim, "1")
            # The smallest id of that moment, and the ids that follow it.
            job_id = UUID(int=(int((time.time() - days * DAY) * 1000) << 80) + len(job_ids))
            database.rows("UPDATE jobs SET id = %s WHERE id = %s", (job_id, claim.job_id))
            set_dates(database.rows, "jobs", [job_id], finished_at=-days * DAY)
            outputs.write(f"{job_id}.csv", b"x")
            job_ids.append(job_id)
        return job_ids

    return finish
