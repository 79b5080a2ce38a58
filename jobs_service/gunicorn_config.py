"""gunicorn's configuration: `gunicorn --config python:jobs_service.gunicorn_config jobs_service.wsgi:application`."""

import itertools
import os
from typing import Any

from prometheus_client import multiprocess as prometheus_multiprocess

from jobs_service.config import Settings
from jobs_service.metrics import multiprocess

_settings = Settings.from_env(os.environ)

bind = (
    f"[{_settings.api_host}]:{_settings.api_port}"
    if ":" in _settings.api_host
    else (f"{_settings.api_host}:{_settings.api_port}")
)
workers = _settings.api_processes
threads = _settings.api_threads
worker_class = "gthread"
#: Idle connections of clients are kept this long; a slow client holds a connection, never a thread's whole life.
keepalive = 75
timeout = 30
graceful_timeout = 25
max_requests = 0
loglevel = "warning"
#: It would lie in the user's home, which a container has not, and which two stacks on one machine would share.
control_socket_disable = True


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ANN401 - gunicorn has no types
    """Give the new process the lowest slot that no living one has: metrics files stay as few as processes."""
    taken = {getattr(other, "slot", None) for other in server.WORKERS.values()}
    worker.slot = next(number for number in itertools.count() if number not in taken)


def post_fork(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001
    multiprocess.set_slot(f"g{worker.slot}")


def child_exit(server: Any, worker: Any) -> None:  # noqa: ANN401, ARG001
    """Run in the parent, also after a kill: what a dead process had in flight is not in flight any more."""
    prometheus_multiprocess.mark_process_dead(f"g{worker.slot}")
