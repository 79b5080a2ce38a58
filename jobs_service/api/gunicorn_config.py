"""Configures gunicorn: `gunicorn --config python:jobs_service.api.gunicorn_config jobs_service.asgi:application`."""

import gc
import os
import resource

# What these modules need in memory, the processes share with the main process. The application itself is imported by
# each of them, so that a reload takes the new code.
import dramatiq  # noqa: F401
import falcon.asgi  # noqa: F401
import gunicorn.workers.gasgi  # noqa: F401
import prometheus_client  # noqa: F401
import structlog  # noqa: F401

from jobs_service.config import Settings

#: The most connections of a process, and the open files that it needs for everything else.
MOST_CONNECTIONS, OTHER_FILES = 10_000, 512


def most_connections() -> int:
    """Return how many connections a process may have, and allow it so many open files, as far as the system does.

    Many systems allow a process 1,024 files, unless it asks for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(256, min(MOST_CONNECTIONS, soft - OTHER_FILES))


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
#: Per process. Those of clients that watch jobs stay open all the time.
worker_connections = most_connections()
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
