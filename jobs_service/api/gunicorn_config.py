"""Configures gunicorn: `gunicorn --config python:jobs_service.api.gunicorn_config jobs_service.asgi:application`."""

import gc
import os

# What these modules need in memory, the processes share with the main process. The application itself is imported by
# each of them, so that a reload takes the new code.
import dramatiq  # noqa: F401
import falcon.asgi  # noqa: F401
import gunicorn.workers.gasgi  # noqa: F401
import prometheus_client  # noqa: F401
import structlog  # noqa: F401

# Its memory is shared too: the limits of callers count for all processes.
import jobs_service.api.access.rate_limits  # noqa: F401
from jobs_service import descriptors
from jobs_service.config import Settings

_settings = Settings.from_env(os.environ)

bind = (
    f"[{_settings.api_host}]:{_settings.api_port}"
    if ":" in _settings.api_host
    else (f"{_settings.api_host}:{_settings.api_port}")
)
workers = _settings.api_processes
worker_class = "jobs_service.api.http_protocol.HttpWorker"
#: Not uvloop where that happens to be installed: the tests run with this one.
asgi_loop = "asyncio"
asgi_lifespan = "on"
#: Per process, of those that are not being answered. Each client that watches jobs is being answered all the time. Room
#: for thousands that connect at the same moment and send their requests a little later; each takes 7 KiB.
worker_connections = 4_096
#: Open files of a process: connections of both kinds, and everything else.
FILES = 10_000
descriptors.allow(FILES)
#: Idle connections are closed earlier when new ones need their place.
keepalive = _settings.api_keepalive_seconds
#: A process whose event loop has not run for this long is replaced.
timeout = 30
graceful_timeout = 25
max_requests = 0
loglevel = "warning"
#: The socket would be in the user's home directory, which containers lack and two stacks on one machine would share.
control_socket_disable = True


def pre_fork(server: object, worker: object) -> None:  # noqa: ARG001 - gunicorn's arguments
    """Leave what exists out of garbage collections: they would write to memory that the processes share."""
    gc.freeze()
