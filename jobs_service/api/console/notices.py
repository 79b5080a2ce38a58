"""What a page says after an action, by the name in its URL. `{n}` is how many jobs it was, `{skipped}` how many not."""

NOTICES = {
    "submitted": "The job is submitted.",
    "cancelled": "The job is cancelled.",
    "retried": "The job is pending again.",
    "changed": "The job is changed.",
    "discarded": "The dead letter is deleted.",
    "group-resolved": "The group is resolved. It is open again as soon as one of its jobs fails.",
    "group-ignored": "The group is ignored until it is opened again.",
    "group-reopened": "The group is open again.",
    "redrive-begun": "The redrive has begun.",
    "redrive-stopped": "The redrive is stopped. What was moved stays moved.",
    "redrive-finished": "There was nothing to stop: all its jobs were moved already.",
    "queue-paused": "The queue is paused. No job of it is started until it resumes.",
    "queue-already-paused": "The queue was paused already. That pause stays as it is.",
    "queue-resumed": "The queue runs again. Its jobs start within about two seconds.",
    "many-cancel": "Cancelled: {n}. Skipped, because they had ended: {skipped}.",
    "many-retry": "Pending again: {n}. Skipped, because they were not finished: {skipped}.",
    "many-discard": "Discarded: {n}. Skipped, because they had not failed: {skipped}.",
    "signed-out": "You are signed out.",
}
