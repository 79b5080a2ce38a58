"""Configures gunicorn: `gunicorn --config python:jobs_service.api.gunicorn_config jobs_service.wsgi:application`."""

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
worker_class = "jobs_service.api.http_worker.HttpWorker"
#: Per process. Below the 1,024 open files that many systems allow a process.
worker_connections = 512
#: Idle connections are closed earlier when new ones need their place.
keepalive = _settings.api_keepalive_seconds
timeout = 30
graceful_timeout = 25
max_requests = 0
loglevel = "warning"
#: The socket would be in the user's home directory, which containers lack and two stacks on one machine would share.
control_socket_disable = True
