"""The API: its collaborators, then a line for each route."""

from typing import Any

import falcon.asgi

from jobs_service import events
from jobs_service.api import problems
from jobs_service.api.event_loop import Lifespan
from jobs_service.api.middleware import HttpRules, RequestContext, RequestMetrics
from jobs_service.api.openapi import Route
from jobs_service.api.operations import Contract
from jobs_service.api.request_body import BodyReader
from jobs_service.api.resources.health import Liveness, Readiness
from jobs_service.api.resources.index import OpenApi, Root
from jobs_service.api.resources.jobs import JobCancellation, JobCollection, JobItem, JobRetry
from jobs_service.api.resources.metrics import Metrics
from jobs_service.api.resources.outputs import JobOutput
from jobs_service.api.threads import Threads
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.publisher import Publisher
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.database.connection import open_database
from jobs_service.jobs.job_types import load
from jobs_service.metrics import catalogue, log_records
from jobs_service.metrics.exposition import build_registry
from jobs_service.observability import logs
from jobs_service.outputs.assembly import open_outputs
from jobs_service.submission.submit import Submitter

#: How long downloads are refused at once after the store of files did not answer.
OUTPUT_PAUSE_SECONDS = 2.0

#: The pieces of downloads that may wait for a thread: as many as a process has connections, so that none is refused in
#: the middle of a file.
PIECES_WAITING = 512

#: What `GET /` lists.
LINKS = {
    "jobs": "/jobs",
    "openapi": "/openapi.json",
    "liveness": "/livez",
    "readiness": "/readyz",
    "metrics": "/metrics",
}


def create_app(settings: Settings) -> "falcon.asgi.App[Any, Any]":
    """Return the ASGI application. Connects to nothing before the first request."""
    registry = load(settings.actor_modules)
    database = open_database(settings, service="app")
    broker = JobBroker.from_settings(settings)
    broker.learn(job_type.name for job_type in registry)
    # A database of its own: no list that takes long holds up a new job.
    intake_database = open_database(settings, service="intake", connections=1, prepares=True)
    submitter = Submitter(intake_database, Publisher(broker), registry, settings)
    catalogue.zero_api(registry)
    events.subscribe("metrics", count)
    logs.observe(log_records.count)

    middleware: list[Any] = [
        Lifespan(submitter.intake),
        RequestContext(),
        RequestMetrics(),
        HttpRules(settings.api_prefix),
        Contract(),
    ]
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App(middleware=middleware)
    problems.install(app)
    threads = Threads(settings.api_threads)
    body_reader = BodyReader(settings.max_body_bytes)
    readiness = Readiness(database, broker, registry.queues, threads, intake_database=intake_database)
    served = build_registry(settings, registry)
    reading = Threads(settings.api_threads, max_waiting=PIECES_WAITING)
    outputs = open_outputs(settings, pause_seconds=OUTPUT_PAUSE_SECONDS)
    routes = [
        Route("/jobs", JobCollection(database, threads, submitter, registry, body_reader)),
        Route("/jobs/{job_id}", JobItem(database, threads)),
        Route("/jobs/{job_id}/cancel", JobCancellation(database, threads)),
        Route("/jobs/{job_id}/retry", JobRetry(database, threads, DeadLetterList(broker.client, broker.keys))),
        Route("/jobs/{job_id}/output", JobOutput(database, threads, outputs, reading)),
        Route("/livez", Liveness()),
        Route("/readyz", readiness),
        # A thread of its own: a scrape takes seconds while a server does not answer.
        Route("/metrics", Metrics(served, Threads(1), everyone=settings.metrics_access == "everyone")),
        Route("/", Root(LINKS)),
    ]
    routes.append(Route("/openapi.json", OpenApi(routes, [kind for kind in registry if not kind.is_canary])))
    for route in routes:
        app.add_route(route.path, route.resource)
    return app


def count(event: events.Event) -> None:
    """Count the API's events."""
    match event:
        case events.JobSubmitted():
            catalogue.SUBMITTED.labels(event.queue, event.type, "api").inc()
        case events.JobRedriven():
            catalogue.SUBMITTED.labels(event.queue, event.type, "redrive").inc()
        case events.JobCancelled():
            catalogue.FINISHED.labels(event.queue, event.type, "cancelled").inc()
        case events.AttemptAmbiguous():
            catalogue.AMBIGUOUS.labels(event.queue, event.type, event.policy).inc()
        case events.MessageNotPublished():
            catalogue.SUBMISSION_ERRORS.labels("broker_unavailable").inc()
        case events.SubscriberFailed():
            catalogue.EVENT_SUBSCRIBER_ERRORS.labels(event.subscriber).inc()
