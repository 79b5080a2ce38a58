"""What a page says after an action, by the name in its URL. `{n}` is how many jobs it was, `{skipped}` how many not."""

NOTICES = {
    "submitted": "The job is submitted.",
    "cancelled": "The job is cancelled.",
    "retried": "The job is pending again.",
    "changed": "The job is changed.",
    "many-cancel": "Cancelled: {n}. Skipped, because they had ended: {skipped}.",
    "many-retry": "Pending again: {n}. Skipped, because they were not finished: {skipped}.",
    "many-discard": "Discarded: {n}. Skipped, because they had not failed: {skipped}.",
    "signed-out": "You are signed out.",
}
