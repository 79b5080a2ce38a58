"""A fault of our own: an API is told to stop or to reload while clients post; one is started on the same port."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from eventually import eventually

from devstack.processes import descendants


def test_every_201_before_the_end_is_kept(stack):
    stack.start()
    api = stack.service.children[0]

    with ThreadPoolExecutor(4) as clients:
        posts = [clients.submit(post_until_refused, stack) for _ in range(4)]
        eventually(lambda: len(stack.accepted) > 20, what="clients at work")
        stack.strike()
        assert api.stop(seconds=60) == 0
        for post in posts:
            post.result()
    stack.service.start_api()
    assert stack.submit()
    stack.settle()


def post_until_refused(stack):
    while stack.submit():
        pass


def test_a_reload_refuses_nothing(stack):
    """SIGHUP: gunicorn starts other processes, and the previous ones end when they have answered."""
    stack.start()
    api = stack.service.children[0]
    before, reloaded = {*descendants(api.pid)}, Event()

    with ThreadPoolExecutor(4) as clients:
        posts = [clients.submit(post_until, stack, reloaded) for _ in range(4)]
        eventually(lambda: len(stack.accepted) > 20, what="clients at work")
        stack.strike()
        os.kill(api.pid, signal.SIGHUP)
        try:
            eventually(lambda: (now := {*descendants(api.pid)}) and not now & before, what="other processes alone")
        finally:
            reloaded.set()
        assert all(None not in post.result() for post in posts)
    stack.settle()


def post_until(stack, reloaded):
    ids = []
    while not reloaded.is_set():
        ids.append(stack.submit())
    return ids
