"""A fault of our own: what started the worker processes freezes, and nobody reads what they log."""

import os
import signal

from devstack.processes import descendants


def test_workers_go_on_without_their_parents(stack):
    worker = stack.start(LOG_LEVEL="debug")
    everybody = [worker.pid, *descendants(worker.pid)]
    parents = [pid for pid in everybody if descendants(pid)]

    stack.strike()
    for pid in parents:
        os.kill(pid, signal.SIGSTOP)
    try:
        # More lines than the 64 KiB of a pipe.
        stack.submit_load(80)
        stack.settle()
    finally:
        for pid in parents:
            os.kill(pid, signal.SIGCONT)

    assert worker.log.stat().st_size > 65_536
