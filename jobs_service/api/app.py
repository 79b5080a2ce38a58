"""The API: its collaborators, then a line for each route."""

from typing import Any

import falcon.asgi

from jobs_service import events
from jobs_service.api import event_loop, problems
from jobs_service.api.access.guard import Guard
from jobs_service.api.access.known_keys import KnownKeys
from jobs_service.api.access.sessions import Sessions
from jobs_service.api.background import Refresher
from jobs_service.api.batch_body import PATH as BATCH_PATH
from jobs_service.api.console import routes as console_routes
from jobs_service.api.console.pages import Console, Rendering
from jobs_service.api.event_feed import EventFeed, Wait
from jobs_service.api.event_loop import Lifespan
from jobs_service.api.middleware import HttpRules, RequestContext, RequestMetrics
from jobs_service.api.openapi import Route
from jobs_service.api.operations import Contract
from jobs_service.api.request_body import BodyReader
from jobs_service.api.resources.attention import Attention
from jobs_service.api.resources.batches import JobBatch
from jobs_service.api.resources.cancellations import CancellationItem, Cancellations, CancellationStop
from jobs_service.api.resources.dead_letter_actions import (
    DiscardItem,
    Discards,
    DiscardStop,
    RedriveItem,
    Redrives,
    RedriveStop,
)
from jobs_service.api.resources.dead_letters import DeadLetterCollection, DeadLetterItem
from jobs_service.api.resources.docs import ApiPage, ErrorsPage, Files
from jobs_service.api.resources.error_groups import (
    ErrorGroupResource,
    ErrorGroups,
    GroupIgnoring,
    GroupReopening,
    GroupResolution,
)
from jobs_service.api.resources.event_streams import Events, JobEvents
from jobs_service.api.resources.explanations import JobExplanation
from jobs_service.api.resources.figures import FigureReader
from jobs_service.api.resources.health import Liveness, Readiness
from jobs_service.api.resources.index import OpenApi, Root
from jobs_service.api.resources.job_changes import JobChanger
from jobs_service.api.resources.job_logs import Logs
from jobs_service.api.resources.job_pages import JobPages
from jobs_service.api.resources.job_types import JobTypeCollection, JobTypeItem
from jobs_service.api.resources.jobs import JobCancellation, JobCollection, JobItem, JobRetry, JobsCount
from jobs_service.api.resources.metrics import Metrics
from jobs_service.api.resources.outputs import JobOutput
from jobs_service.api.resources.queue_actions import QueuePause, QueueResume
from jobs_service.api.resources.queues import QueueCollection, QueueItem, QueueReader
from jobs_service.api.resources.redrive_outcomes import RedriveOutcomes
from jobs_service.api.resources.stats import Statistics
from jobs_service.api.resources.workers import WorkerCollection
from jobs_service.api.threads import Threads
from jobs_service.broker.dead_letter_list import DeadLetterList
from jobs_service.broker.publisher import Publisher
from jobs_service.broker.redis import JobBroker
from jobs_service.config import Settings
from jobs_service.database.connection import Database, open_database
from jobs_service.jobs.job_types import load
from jobs_service.metrics import catalogue, log_records
from jobs_service.metrics.exposition import build_registry
from jobs_service.observability import logs
from jobs_service.outputs.assembly import open_outputs
from jobs_service.submission.batches import BatchSubmitter
from jobs_service.submission.queue_limits import QueueLimits
from jobs_service.submission.submit import Submitter

#: Seconds between two counts of the waiting jobs.
COUNT_SECONDS = 1.0

#: How long downloads are refused at once after the store of files did not answer.
OUTPUT_PAUSE_SECONDS = 2.0

#: The pieces of downloads that may wait for a thread: as many as a process has connections, so that none is refused in
#: the middle of a file.
PIECES_WAITING = 512

#: What `GET /` lists.
LINKS = {
    "console": "/console",
    "jobs": "/jobs",
    "job_count": "/jobs/count",
    "job_types": "/job-types",
    "queues": "/queues",
    "workers": "/workers",
    "stats": "/stats",
    "attention": "/attention",
    "events": "/events",
    "dead_letters": "/dead-letters",
    "error_groups": "/dead-letters/groups",
    "redrives": "/dead-letters/redrives",
    "discards": "/dead-letters/discards",
    "cancellations": "/cancellations",
    "openapi": "/openapi.json",
    "docs": "/docs",
    "errors": "/docs/errors",
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
    # A database of its own: no list or batch that takes long holds up a new job.
    intake_database = open_database(settings, service="intake", connections=1, prepares=True)
    publisher = Publisher(broker)
    submitter = Submitter(intake_database, publisher, registry, settings)
    batches = BatchSubmitter(database, publisher, submitter)
    feed = EventFeed(database, hidden=[kind.name for kind in registry.canaries])
    event_loop.at_stop(feed.end)
    catalogue.zero_api(registry)
    events.subscribe("metrics", count)
    logs.observe(log_records.count)

    known_keys = KnownKeys(database)
    threads = Threads(settings.api_threads)
    guard = Guard(known_keys, Sessions(database, threads), settings)
    console = Console(settings)
    middleware: list[Any] = [
        Lifespan(submitter.intake),
        known_keys.refresher,
        *_counting(submitter.queue_limits, database),
        RequestContext(),
        RequestMetrics(),
        HttpRules(settings.api_prefix),
        Rendering(console, guard),
        guard,
        Contract(),
    ]
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App(middleware=middleware)
    problems.install(app)
    console.install(app)
    body_reader = BodyReader(settings.max_body_bytes)
    dead_letters = DeadLetterList(broker.client, broker.keys)
    readiness = Readiness(database, broker, registry.queues, threads, intake_database=intake_database)
    served = build_registry(settings, registry)
    pages = JobPages(database, registry, has_search=settings.search == "on")
    figures = FigureReader(database, threads)
    queues = QueueReader(figures, registry, settings)
    reading = Threads(settings.api_threads, max_waiting=PIECES_WAITING)
    outputs = open_outputs(settings, pause_seconds=OUTPUT_PAUSE_SECONDS)
    output = JobOutput(database, threads, outputs, reading)
    all_events, job_events = Events(feed, registry), JobEvents(feed)
    routes = [
        Route("/jobs", JobCollection(database, threads, submitter, pages, body_reader)),
        Route(BATCH_PATH, JobBatch(batches, max_bytes=settings.max_batch_bytes, max_job_bytes=settings.max_body_bytes)),
        Route("/jobs/count", JobsCount(database, threads, pages)),
        Route("/jobs/{job_id}", JobItem(database, threads, Wait(feed), body_reader, JobChanger(database, publisher))),
        Route("/jobs/{job_id}/cancel", JobCancellation(database, threads, body_reader)),
        Route("/jobs/{job_id}/retry", JobRetry(database, threads, dead_letters, submitter, body_reader)),
        Route("/jobs/{job_id}/output", output),
        Route("/jobs/{job_id}/events", job_events),
        Route("/jobs/{job_id}/logs", Logs(database, threads)),
        Route("/jobs/{job_id}/explain", JobExplanation(database, threads, registry, settings)),
        Route("/events", all_events),
        Route("/dead-letters", DeadLetterCollection(database, threads, registry)),
        Route("/dead-letters/{job_id}", DeadLetterItem(database, threads, dead_letters)),
        Route("/dead-letters/groups", ErrorGroups(database, threads, registry)),
        Route("/dead-letters/groups/{group_id}", ErrorGroupResource(database, threads)),
        Route("/dead-letters/groups/{group_id}/resolve", GroupResolution(database, threads, body_reader)),
        Route("/dead-letters/groups/{group_id}/ignore", GroupIgnoring(database, threads, body_reader)),
        Route("/dead-letters/groups/{group_id}/reopen", GroupReopening(database, threads)),
        Route("/dead-letters/redrives", Redrives(database, threads, registry, body_reader)),
        Route("/dead-letters/redrives/{redrive_id}", RedriveItem(database, threads)),
        Route("/dead-letters/redrives/{redrive_id}/outcomes", RedriveOutcomes(database, threads)),
        Route("/dead-letters/redrives/{redrive_id}/cancel", RedriveStop(database, threads)),
        Route("/dead-letters/discards", Discards(database, threads, registry, body_reader)),
        Route("/dead-letters/discards/{discard_id}", DiscardItem(database, threads)),
        Route("/dead-letters/discards/{discard_id}/cancel", DiscardStop(database, threads)),
        Route("/cancellations", Cancellations(database, threads, registry, body_reader)),
        Route("/cancellations/{cancellation_id}", CancellationItem(database, threads)),
        Route("/cancellations/{cancellation_id}/cancel", CancellationStop(database, threads)),
        Route("/job-types", JobTypeCollection(registry, settings)),
        Route("/job-types/{name}", JobTypeItem(registry, settings)),
        Route("/queues", QueueCollection(queues)),
        Route("/queues/{name}", QueueItem(queues)),
        Route("/queues/{name}/pause", QueuePause(database, threads, registry, body_reader)),
        Route("/queues/{name}/resume", QueueResume(database, threads, registry)),
        Route("/workers", WorkerCollection(database, threads, settings.lease_seconds)),
        Route("/stats", Statistics(figures)),
        Route("/attention", Attention(queues, broker, settings)),
        Route("/livez", Liveness()),
        Route("/readyz", readiness),
        # A thread of its own: a scrape takes seconds while a server does not answer.
        Route("/metrics", Metrics(served, Threads(1), everyone=settings.metrics_access == "everyone")),
        Route("/", Root(LINKS)),
        Route("/docs", ApiPage()),
        Route("/docs/errors", ErrorsPage()),
        Route("/docs/files/{name}", Files()),
    ]
    routes.append(Route("/openapi.json", OpenApi(routes, [kind for kind in registry if not kind.is_canary])))
    for route in [*routes, *console_routes.routes(console, guard, all_events, job_events, output)]:
        app.add_route(route.path, route.resource)
    return app


def _counting(queue_limits: QueueLimits, database: Database) -> list[Refresher]:
    """Return what counts the waiting jobs of each queue, where those are limited."""
    if not queue_limits.limit:
        return []
    return [Refresher(lambda: queue_limits.count(database), interval_seconds=COUNT_SECONDS)]


def count(event: events.Event) -> None:
    """Count the API's events."""
    match event:
        case events.JobSubmitted():
            catalogue.SUBMITTED.labels(event.queue, event.type, "api").inc()
        case events.JobRedriven():
            catalogue.SUBMITTED.labels(event.queue, event.type, "redrive").inc()
        case events.JobDiscarded():
            catalogue.DISCARDED.labels(event.queue, event.type).inc()
        case events.BulkActionEnded():
            catalogue.BULK_ACTIONS_ENDED.labels(event.kind, event.state).inc()
            catalogue.BULK_ACTION_JOBS.labels(event.kind, "skipped").inc(event.skipped)
        case events.JobCancelled():
            catalogue.FINISHED.labels(event.queue, event.type, "cancelled").inc()
        case events.AttemptAmbiguous():
            catalogue.AMBIGUOUS.labels(event.queue, event.type, event.policy).inc()
        case events.MessageNotPublished():
            catalogue.SUBMISSION_ERRORS.labels("broker_unavailable").inc()
        case events.SubscriberFailed():
            catalogue.EVENT_SUBSCRIBER_ERRORS.labels(event.subscriber).inc()
