"""The routes of the console."""

from jobs_service.api.access.guard import Guard
from jobs_service.api.console.bulk import ActionProgress, ActionStop, JobActions, JobActionsConfirmed
from jobs_service.api.console.failures import Failure, FailureDecision, Failures
from jobs_service.api.console.job import JobAttempt, JobAttempts, JobItem, JobText
from jobs_service.api.console.job_actions import JobCancel, JobDiscard, JobReschedule, JobRetry
from jobs_service.api.console.job_types import JobType, JobTypes
from jobs_service.api.console.jobs import Jobs
from jobs_service.api.console.new_job import NewJob
from jobs_service.api.console.overview import Example, Overview
from jobs_service.api.console.pages import Console
from jobs_service.api.console.queues import Queue, Queues
from jobs_service.api.console.redrives import NewRedrive, Redrive, Redrives, RedriveStop
from jobs_service.api.console.signing_in import SignIn, SignOut
from jobs_service.api.console.workers import Workers
from jobs_service.api.openapi import Route
from jobs_service.api.resources.event_streams import Events, JobEvents
from jobs_service.api.resources.outputs import JobOutput


def routes(console: Console, guard: Guard, events: Events, job_events: JobEvents, output: JobOutput) -> list[Route]:
    """Return the routes, of which some are the API's own: a browser has a cookie for them instead of a key."""
    return [
        Route("/console", Overview(console)),
        Route("/console/jobs", Jobs(console)),
        Route("/console/jobs/example", Example(console)),
        Route("/console/failures", Failures(console)),
        Route("/console/failures/{group_id}", Failure(console)),
        Route("/console/failures/{group_id}/{decision}", FailureDecision(console)),
        Route("/console/redrives", Redrives(console)),
        Route("/console/redrives/new", NewRedrive(console)),
        Route("/console/redrives/{redrive_id}", Redrive(console)),
        Route("/console/redrives/{redrive_id}/stop", RedriveStop(console)),
        Route("/console/queues", Queues(console)),
        Route("/console/queues/{name}", Queue(console)),
        Route("/console/workers", Workers(console)),
        Route("/console/types", JobTypes(console)),
        Route("/console/types/{name}", JobType(console)),
        Route("/console/jobs/new", NewJob(console)),
        Route("/console/jobs/actions", JobActions(console)),
        Route("/console/jobs/actions/confirm", JobActionsConfirmed(console)),
        Route("/console/actions/{kind}/{action_id}", ActionProgress(console)),
        Route("/console/actions/{kind}/{action_id}/stop", ActionStop(console)),
        Route("/console/sign-in", SignIn(console, guard)),
        Route("/console/sign-out", SignOut(console, guard)),
        Route("/console/files/{name}", console.assets),
        Route("/console/events", events),
        Route("/console/jobs/{job_id}/events", job_events),
        Route("/console/jobs/{job_id}/output", output),
        Route("/console/jobs/{job_id}", JobItem(console)),
        Route("/console/jobs/{job_id}/attempts", JobAttempts(console)),
        Route("/console/jobs/{job_id}/attempts/{key}", JobAttempt(console)),
        Route("/console/jobs/{job_id}/json/{part}", JobText(console)),
        Route("/console/jobs/{job_id}/cancel", JobCancel(console)),
        Route("/console/jobs/{job_id}/retry", JobRetry(console)),
        Route("/console/jobs/{job_id}/reschedule", JobReschedule(console)),
        Route("/console/jobs/{job_id}/discard", JobDiscard(console)),
    ]
