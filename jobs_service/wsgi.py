"""The API process: `gunicorn jobs_service.wsgi:application`. Importing this reads the environment."""

import os

from jobs_service import events, logs, tracing
from jobs_service.app import create_app
from jobs_service.config import Settings

_settings = Settings.from_env(os.environ)
logs.configure(form=_settings.log_format, level=_settings.log_level, service="app")
events.subscribe(logs.log_event)
tracing.start(_settings, service="app")
application = create_app(_settings)
