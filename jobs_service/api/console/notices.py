"""What a page says after an action, by the name in its URL. `{n}` is how many jobs it was."""

NOTICES = {
    "submitted": "The job is submitted.",
    "cancelled": "The job is cancelled.",
    "retried": "The job is pending again.",
    "changed": "The job is changed.",
    "discarded": "The dead letter is deleted.",
    "signed-out": "You are signed out.",
}
