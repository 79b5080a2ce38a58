"""The queue at which a worker's idle threads wait."""

from queue import Empty
from threading import Thread

import pytest
from eventually import eventually

from jobs_service.worker.work_queue import WorkQueue


@pytest.fixture
def queue():
    return WorkQueue()


@pytest.fixture
def take(queue):
    """Take from the queue as one of Dramatiq's threads does, and return what each thread got."""
    started = []

    def take():
        got = []

        def run():
            try:
                got.append(queue.get(timeout=0))
            except Empty:
                got.append(None)

        started.append(Thread(target=run, daemon=True))
        started[-1].start()
        return got

    yield take
    queue.close()
    for thread in started:
        thread.join()


def test_the_first_in_order_comes_first(queue):
    for item in (2, 1, 3):
        queue.put(item)

    assert [queue.get(), queue.get(), queue.get_nowait()] == [1, 2, 3]


def test_without_waiting_there_is_nothing(queue):
    with pytest.raises(Empty):
        queue.get_nowait()


def test_a_thread_waits_for_a_message_whatever_its_timeout(queue, take):
    taken = [take(), take()]
    eventually(lambda: len(queue.not_empty._waiters) == 2, what="threads that wait")
    queue.put("message")

    eventually(lambda: sorted(taken) == [[], ["message"]], what="a message for one of them")


def test_a_closed_queue_wakes_all_and_still_hands_out_what_it_has(queue, take):
    waiting = [take() for _ in range(3)]
    eventually(lambda: len(queue.not_empty._waiters) == 3, what="threads that wait")
    queue.close()

    eventually(lambda: waiting == [[None]] * 3, what="threads that are told of the end")
    queue.put("late")
    assert queue.get() == "late"
    with pytest.raises(Empty):
        queue.get()
