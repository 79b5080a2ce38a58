"""What a page says after an action, by the name in its URL. `{n}` is how many jobs it was."""

NOTICES = {
    "submitted": "The job is submitted.",
    "cancelled": "The job is cancelled.",
    "retried": "The job is pending again.",
    "changed": "The job is changed.",
    "queue-paused": "The queue is paused. No job of it is started until it resumes.",
    "queue-already-paused": "The queue was paused already. That pause stays as it is.",
    "queue-resumed": "The queue runs again. Its jobs start within about two seconds.",
    "signed-out": "You are signed out.",
}
