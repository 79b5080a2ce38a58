"""Who sends a request, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What an API key may allow."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    DEAD_LETTERS_WRITE = "dead-letters:write"
    QUEUES_WRITE = "queues:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: `req.context.caller`."""

    name: str
    scopes: frozenset[Scope]


#: A caller without a key, where none is needed.
ANONYMOUS = Caller("anonymous", frozenset(Scope))
