"""The API's side: `gunicorn bench.straightforward.app:application`."""

from bench.straightforward.actors import generate_csv
from bench.straightforward.api import create_app

application = create_app({"csv-generation": generate_csv.send})
