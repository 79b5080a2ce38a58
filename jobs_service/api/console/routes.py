"""The routes of the console."""

from jobs_service.api.access.guard import Guard
from jobs_service.api.console.bulk import ActionProgress, ActionStop, JobActions, JobActionsConfirmed
from jobs_service.api.console.jobs import Jobs
from jobs_service.api.console.overview import Overview
from jobs_service.api.console.pages import Console
from jobs_service.api.console.signing_in import SignIn, SignOut
from jobs_service.api.openapi import Route
from jobs_service.api.resources.event_streams import Events, JobEvents
from jobs_service.api.resources.outputs import JobOutput


def routes(console: Console, guard: Guard, events: Events, job_events: JobEvents, output: JobOutput) -> list[Route]:
    """Return the routes, of which some are the API's own: a browser has a cookie for them instead of a key."""
    return [
        Route("/console", Overview(console)),
        Route("/console/jobs", Jobs(console)),
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
    ]
