"""The API's side: `gunicorn bench.celery_app.app:application`."""

import uuid

import falcon

from bench.celery_app.tasks import generate_csv
from bench.straightforward.models import Job, database

TASKS = {"csv-generation": generate_csv}


class DatabaseConnection:
    """Opens and closes a connection around each request, as peewee's documentation shows for Falcon."""

    def process_request(self, _req: falcon.Request, _resp: falcon.Response) -> None:
        database.connect(reuse_if_open=True)

    def process_response(self, _req: falcon.Request, _resp: falcon.Response, _resource: object, _ok: bool) -> None:
        if not database.is_closed():
            database.close()


class Jobs:
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = req.media
        try:
            task, payload = TASKS[body["type"]], body["payload"]
        except (KeyError, TypeError):
            raise falcon.HTTPBadRequest(description="expected a known type and a payload") from None
        job = Job.create(id=uuid.uuid4(), type=body["type"], payload=payload)
        task.delay(str(job.id))
        resp.status = falcon.HTTP_201
        resp.media = {"job_id": str(job.id), "status": job.status}


application = falcon.App(middleware=[DatabaseConnection()])
application.add_route("/jobs", Jobs())
