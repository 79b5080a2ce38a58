"""Who sends a request, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What an API key may allow. No scope includes another."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    DEAD_LETTERS_WRITE = "dead-letters:write"
    QUEUES_WRITE = "queues:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: `req.context.caller`."""

    #: That of the API key. Keys with the same name belong to the same caller.
    name: str
    scopes: frozenset[Scope]


#: A caller without a key, where none is needed. No key can have this name.
ANONYMOUS = Caller("anonymous", frozenset(Scope))

#: The key of a request's scope for its `Caller`, where the console calls the API inside of this process. No client can
#: set it.
CALLER = "jobs_service.caller"
