"""gunicorn's configuration: `gunicorn --config python:jobs_service.gunicorn_config jobs_service.wsgi:application`."""

import os

from jobs_service.config import Settings

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
