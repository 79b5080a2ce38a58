"""The API of the versions that are written plainly: a Falcon application that writes a row and sends its id."""

import uuid
from collections.abc import Callable, Mapping

import falcon

from bench.straightforward.models import Job, database

#: Sends a job's id to the workers.
Send = Callable[[str], object]


class DatabaseConnection:
    """Opens and closes a connection for each request, as peewee's documentation shows for Falcon."""

    def process_request(self, _req: falcon.Request, _resp: falcon.Response) -> None:
        database.connect(reuse_if_open=True)

    def process_response(self, _req: falcon.Request, _resp: falcon.Response, _resource: object, _ok: bool) -> None:
        if not database.is_closed():
            database.close()


class Jobs:
    def __init__(self, senders: Mapping[str, Send]) -> None:
        self.senders = senders

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = req.media
        try:
            send, payload = self.senders[body["type"]], body["payload"]
        except (KeyError, TypeError):
            raise falcon.HTTPBadRequest(description="expected a known type and a payload") from None
        job = Job.create(id=uuid.uuid4(), type=body["type"], payload=payload)
        send(str(job.id))
        resp.status = falcon.HTTP_201
        resp.media = {"job_id": str(job.id), "status": job.status}


def create_app(senders: Mapping[str, Send]) -> falcon.App:
    """Return the application. `senders` has a function for each job type."""
    app = falcon.App(middleware=[DatabaseConnection()])
    app.add_route("/jobs", Jobs(senders))
    return app
