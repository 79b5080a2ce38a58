"""The API process: `gunicorn jobs_service.asgi:application`. Importing this reads the environment."""

import os

from jobs_service import events
from jobs_service.api.app import create_app
from jobs_service.config import Settings
from jobs_service.observability import logs, tracing

_settings = Settings.from_env(os.environ)
logs.configure(form=_settings.log_format, level=_settings.log_level, service="app")
events.subscribe("logs", logs.log_event)
tracing.start(_settings, service="app")
application = create_app(_settings)
