"""The API's side: `gunicorn bench.celery_app.app:application`."""

from bench.celery_app.tasks import generate_csv
from bench.straightforward.api import create_app

application = create_app({"csv-generation": generate_csv.delay})
