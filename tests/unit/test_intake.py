"""Calls on an event loop reach one thread in batches; each gets its own outcome, and none waits for ever."""

import asyncio
import threading
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
from eventually import eventually
from samples import new_job

from jobs_service.errors import DatabaseUnavailable, TooBusy, ValueRefused
from jobs_service.submission import intake as module
from jobs_service.submission.intake import Intake
from jobs_service.submission.writer import Written

#: Longer than any test takes. A thread that waited this long was held by a loop that did not go on.
PATIENCE_SECONDS = 60


class Writer:
    """Writes nothing, and holds each batch until it is let go."""

    def __init__(self):
        self.batches = []
        self.threads = set()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.is_held = False
        self.raises = None
        self.refused = ""
        self.database = SimpleNamespace(refusal=lambda: self.refused)
        self.time = SimpleNamespace(estimate=lambda: None, now=self.now)

    def write(self, jobs):
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(jobs))
        self.begun.release()
        if self.is_held:
            assert self.go.acquire(timeout=PATIENCE_SECONDS)
        if self.raises is not None:
            raise self.raises
        return [ValueRefused("bad") if job.type == "bad" else Written(written(job)) for job in jobs]

    def now(self):
        self.threads.add(threading.current_thread().name)
        if self.raises is not None:
            raise self.raises
        return 1_700_000_000.0

    async def has_begun(self):
        """Wait, without holding the loop, until the thread has another batch in hand."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE_SECONDS)

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]


def written(job):
    return SimpleNamespace(id=job.id, is_expired=False)


@pytest.fixture
def writer():
    return Writer()


@pytest.fixture
def announced():
    return []


@pytest.fixture
def intake(writer, announced):
    return Intake(writer, lambda job, _: announced.append(job))


async def write(intake, jobs, *, size=10):
    return await asyncio.gather(*(intake.write(job, size) for job in jobs), return_exceptions=True)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def test_calls_of_one_turn_share_a_batch_in_their_order(intake, writer, announced):
    jobs = [new_job() for _ in range(20)]

    outcomes = asyncio.run(write(intake, jobs))

    assert [jobs] == writer.batches
    assert [job.id for job in jobs] == [outcome.submitted.id for outcome in outcomes]
    assert jobs == announced
    assert {"intake"} == writer.threads


def test_calls_gather_while_the_thread_is_busy_and_the_loop_goes_on(intake, writer):
    writer.is_held = True

    async def run():
        first = asyncio.create_task(write(intake, [new_job()]))
        await writer.has_begun()
        others = [asyncio.create_task(write(intake, [new_job()])) for _ in range(3)]
        await turns()
        assert [1] == writer.sizes
        # Only the loop lets the thread go on: had it been held, this would not be reached.
        writer.go.release(2)
        await asyncio.gather(first, *others)

    asyncio.run(run())

    assert [1, 3] == writer.sizes


def test_a_batch_has_a_bounded_number_of_jobs_and_bytes(intake, writer, monkeypatch):
    monkeypatch.setattr(module, "BATCH_JOBS", 4)
    monkeypatch.setattr(module, "BATCH_BYTES", 100)

    async def run():
        await write(intake, [new_job() for _ in range(9)])
        await write(intake, [new_job() for _ in range(5)], size=50)
        await write(intake, [new_job() for _ in range(2)], size=500)

    asyncio.run(run())

    assert [4, 4, 1, 2, 2, 1, 1, 1] == writer.sizes


@pytest.mark.parametrize("limit", [("MOST_JOBS", 3), ("MOST_BYTES", 30)])
def test_what_waits_is_bounded_and_there_is_room_again_later(intake, writer, announced, monkeypatch, limit):
    monkeypatch.setattr(module, *limit)
    writer.is_held = True

    async def run():
        calls = [asyncio.create_task(write(intake, [new_job()]))]
        await writer.has_begun()
        calls.append(asyncio.create_task(write(intake, [new_job() for _ in range(4)])))
        await turns()
        writer.is_held = False
        writer.go.release()
        _, outcomes = await asyncio.gather(*calls)
        assert [False, False, True, True] == [isinstance(outcome, TooBusy) for outcome in outcomes]
        assert [False] * 3 == [isinstance(outcome, TooBusy) for outcome in await write(intake, [new_job()] * 3)]

    asyncio.run(run())

    assert 6 == len(announced)


def test_a_single_payload_of_any_size_is_let_in(intake, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 30)

    [outcome] = asyncio.run(write(intake, [new_job()], size=1_000))

    assert isinstance(outcome, Written)


def test_a_caller_that_has_gone_away_takes_nothing_back(intake, writer, announced):
    writer.is_held = True
    jobs = [new_job() for _ in range(4)]

    async def run():
        tasks = [asyncio.create_task(intake.write(job, 10)) for job in jobs[:2]]
        await writer.has_begun()
        tasks += [asyncio.create_task(intake.write(job, 10)) for job in jobs[2:]]
        await turns()
        for task in (tasks[0], tasks[2]):
            task.cancel()
        writer.go.release(2)
        return await asyncio.gather(*tasks, return_exceptions=True)

    kinds = [type(outcome) for outcome in asyncio.run(run())]

    assert [asyncio.CancelledError, Written, asyncio.CancelledError, Written] == kinds
    assert jobs == announced


def test_a_job_is_announced_in_the_context_of_its_call_and_before_the_call_returns(writer):
    request = ContextVar("request", default="")
    seen = []
    intake = Intake(writer, lambda job, _: seen.append((request.get(), job.id)))

    async def call(number):
        request.set(f"request {number}")
        job = new_job()
        await intake.write(job, 10)
        assert (request.get(), job.id) in seen

    async def run():
        await asyncio.gather(*(call(number) for number in range(3)))

    asyncio.run(run())

    assert ["request 0", "request 1", "request 2"] == [name for name, _ in seen]


def test_one_that_is_refused_fails_alone_and_is_not_announced(intake, announced):
    jobs = [new_job(), new_job(type="bad"), new_job()]

    outcomes = asyncio.run(write(intake, jobs))

    assert [Written, ValueRefused, Written] == [type(outcome) for outcome in outcomes]
    assert [jobs[0], jobs[2]] == announced


def test_while_the_database_refuses_nothing_reaches_the_thread(intake, writer):
    writer.refused = "PostgreSQL gave no answer"

    [outcome] = asyncio.run(write(intake, [new_job()]))

    assert isinstance(outcome, DatabaseUnavailable)
    assert "PostgreSQL gave no answer" == str(outcome)
    assert [] == writer.batches


def test_the_time_is_asked_for_in_the_thread(intake, writer):
    async def run():
        return await asyncio.gather(*(intake.now(10) for _ in range(3)))

    assert [1_700_000_000.0] * 3 == asyncio.run(run())
    assert {"intake"} == writer.threads
    assert [[]] == writer.batches


def test_a_known_time_needs_no_thread(intake, writer):
    writer.time.estimate = lambda: 1.5

    assert 1.5 == asyncio.run(intake.now(10))
    assert set() == writer.threads


def test_callers_get_what_asking_for_the_time_raises(intake, writer):
    writer.raises = DatabaseUnavailable("away")
    writer.write = lambda _: []

    with pytest.raises(DatabaseUnavailable, match="away"):
        asyncio.run(intake.now(10))


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt(), MemoryError(), RuntimeError("a defect")])
def test_the_thread_survives_whatever_is_raised_in_it(intake, writer, error):
    writer.raises = error

    async def run():
        failed = await write(intake, [new_job(), new_job()])
        thread, writer.raises = intake._thread, None
        [outcome] = await write(intake, [new_job()])
        assert thread is intake._thread
        return failed, outcome

    failed, outcome = asyncio.run(run())

    assert [DatabaseUnavailable] * 2 == [type(each) for each in failed]
    assert isinstance(outcome, Written)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_with_a_batch_is_replaced_and_its_calls_fail(intake, writer):
    def die(_):
        writer.begun.release()
        raise SystemExit

    async def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(intake, "_outcomes", die)
            lost = asyncio.create_task(write(intake, [new_job()]))
            await writer.has_begun()
        await asyncio.to_thread(intake._thread.join, PATIENCE_SECONDS)
        [outcome] = await write(intake, [new_job()])
        return await lost, outcome

    [lost], outcome = asyncio.run(run())

    assert isinstance(lost, DatabaseUnavailable)
    assert isinstance(outcome, Written)


def test_an_idle_thread_that_ended_is_replaced(intake):
    async def run():
        await write(intake, [new_job()])
        intake._inbox.put(None)
        await asyncio.to_thread(intake._thread.join, PATIENCE_SECONDS)
        return await write(intake, [new_job()])

    [outcome] = asyncio.run(run())

    assert isinstance(outcome, Written)


def test_where_no_thread_can_be_started_calls_fail_until_one_can(intake, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    async def run():
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            failed = await write(intake, [new_job(), new_job()])
        return failed, await write(intake, [new_job()])

    failed, [outcome] = asyncio.run(run())

    assert [DatabaseUnavailable] * 2 == [type(each) for each in failed]
    assert isinstance(outcome, Written)


def test_a_new_loop_begins_anew(intake, writer):
    """Calls of a loop that was closed while they waited have no one to answer."""
    writer.is_held = True

    async def leave():
        task = asyncio.create_task(write(intake, [new_job()]))
        await writer.has_begun()
        task.cancel()

    asyncio.run(leave())
    writer.is_held = False
    writer.go.release()

    [outcome] = asyncio.run(write(intake, [new_job()]))
    assert isinstance(outcome, Written)


def test_close_writes_what_waits_and_ends_the_thread(intake, writer, announced):
    async def run():
        await write(intake, [new_job()])
        await writer.has_begun()
        writer.is_held = True
        calls = [asyncio.create_task(write(intake, [new_job()]))]
        await writer.has_begun()
        calls.append(asyncio.create_task(write(intake, [new_job()])))
        await turns()
        closing = asyncio.create_task(intake.close(seconds=PATIENCE_SECONDS))
        await turns()
        [refused] = await write(intake, [new_job()])
        assert isinstance(refused, DatabaseUnavailable)
        writer.go.release(2)
        await closing
        return await asyncio.gather(*calls)

    outcomes = asyncio.run(run())

    assert [Written, Written] == [type(outcome) for [outcome] in outcomes]
    assert 3 == len(announced)
    eventually(lambda: not intake._thread.is_alive(), what="the end of the thread")


def test_close_waits_no_longer_than_it_may(intake, writer, announced):
    writer.is_held = True

    async def run():
        calls = [asyncio.create_task(write(intake, [new_job()]))]
        await writer.has_begun()
        calls.append(asyncio.create_task(write(intake, [new_job()])))
        await turns()
        await intake.close(seconds=0)
        outcomes = await asyncio.gather(*calls)
        # What the thread says afterwards is not announced: the caller was told that the job is not confirmed.
        writer.go.release()
        await asyncio.to_thread(intake._thread.join, PATIENCE_SECONDS)
        await turns()
        return outcomes

    outcomes = asyncio.run(run())

    assert [DatabaseUnavailable] * 2 == [type(outcome) for [outcome] in outcomes]
    assert [1] == writer.sizes
    assert [] == announced
    assert not intake._thread.is_alive()


def test_close_of_an_unused_intake_does_nothing(intake):
    asyncio.run(intake.close(seconds=0))

    assert not intake._thread.is_alive()
