"""The job types: name, payload class, function and options, declared with `@job` and bound to Dramatiq late."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from jobs_service.errors import UnknownJobType
from jobs_service.jobs.validation import decoded, encoded, invalid
from jobs_service.mail.mailer import Mailer
from jobs_service.observability import logs
from jobs_service.outputs.local import OutputStore

DEFAULT_QUEUE = "default"

#: Characters of a type's name, as the column has them.
MAX_NAME = 50

CANARY_LIMIT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a job's function may know about the attempt it is: who it is, and where its effects go."""

    job_id: UUID
    #: 1 for the first attempt.
    number: int
    outputs: OutputStore
    mailer: Mailer
    #: To be called just before what cannot be taken back. Raises `LeaseLost` when the job is somebody else's by now.
    #: From then on an attempt that is killed leaves an unknown outcome, and `on_ambiguous` decides.
    begin_effect: Callable[[], None] = lambda: None
    #: Whether the job was cancelled meanwhile. Its code is interrupted then, but not where it waits outside of Python,
    #: nor in threads of its own.
    is_cancelled: Callable[[], bool] = lambda: False
    #: To be called, with a server's name, before it is asked for something. Raises `Unavailable` at once while the
    #: server is known to be away: the job then comes back when it is not.
    ask: Callable[[str], None] = lambda server: None  # noqa: ARG005 - the name that callers may use


#: Typed payload and context in, a small JSON value (the job's `result`) out.
JobFunction = Callable[[Any, JobContext], object]


@dataclass(frozen=True, slots=True)
class JobType:
    """One kind of job. Durations are seconds; None means the service's setting."""

    name: str
    payload: Any
    function: JobFunction
    #: Refuses, by raising `InvalidRequest`, what the payload's type cannot say.
    check: Callable[[Any], None] | None = None
    queue: str = DEFAULT_QUEUE
    max_attempts: int | None = None
    time_limit_seconds: int | None = None
    #: Numbers with a point or an exponent, where the payload's type says nothing of them: `Decimal`, with all their
    #: digits, instead of `float`.
    decimals: bool = False
    #: At most so many of its jobs run at a time in a worker process.
    max_running: int | None = None
    #: Sent by maintenance to see whether its queue works; nobody's job, so lists leave it out.
    is_canary: bool = False

    def decode(self, payload: str | bytes) -> Any:  # noqa: ANN401 - each type has a payload class of its own
        """Return the typed payload from JSON. Raises `InvalidRequest`, pointing below `/payload`."""
        text = payload.encode() if isinstance(payload, str) else payload
        try:
            return self._checked(decoded(text, self.payload, decimals=self.decimals))
        except msgspec.ValidationError as error:
            raise invalid(error, below="/payload") from None

    def parse(self, payload: object) -> Any:  # noqa: ANN401
        """Return what the function would get of a payload that is written here in Python, as in a test of the type."""
        return self.decode(encoded(payload))

    def _checked(self, payload: Any) -> Any:  # noqa: ANN401
        if self.check is not None:
            self.check(payload)
        return payload


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a canary."""


def noop(payload: Nothing, context: JobContext) -> None:
    """Do nothing: what a canary takes is the system's own doing."""


@dataclass(slots=True)
class Registry:
    """The job types by name. Spelling differs only in case and in `-` or `_`: CSV_GENERATION is csv-generation."""

    _types: dict[str, JobType] = field(default_factory=dict)

    def add(self, job_type: JobType) -> None:
        key = spelling(job_type.name)
        if key in self._types:
            raise ValueError(f"job type {job_type.name!r} is declared twice")
        self._types[key] = job_type

    def get(self, name: str) -> JobType:
        """Raises `UnknownJobType`, which names the types there are."""
        try:
            return self._types[spelling(name)]
        except KeyError:
            known = ", ".join(self.names)
            raise UnknownJobType(f"unknown job type {name[:64]!r}; known types: {known}", pointer="/type") from None

    @property
    def names(self) -> list[str]:
        """The names of the types that users may ask for."""
        return sorted(job_type.name for job_type in self if not job_type.is_canary)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that no type has."""
        return [name for name in names if spelling(name) not in self._types]

    def __iter__(self) -> Iterator[JobType]:
        return iter(self._types.values())

    @property
    def canaries(self) -> list[JobType]:
        return [job_type for job_type in self if job_type.is_canary]

    def add_canaries(self) -> None:
        """Add a type that does nothing for each queue that has none yet."""
        for queue in {*self.queues} - {job_type.queue for job_type in self.canaries}:
            name = f"canary-{queue}"[:MAX_NAME]
            self.add(JobType(name, Nothing, noop, queue=queue, time_limit_seconds=CANARY_LIMIT_SECONDS, is_canary=True))

    @property
    def queues(self) -> list[str]:
        return sorted({job_type.queue for job_type in self})


#: What `@job` fills. Importing `actors` is enough to know every type; nothing is bound to a broker by that.
registry = Registry()


def load(actor_modules: str = "") -> Registry:
    """Import `actors` and, by their names between commas, further modules with job types. Returns the registry."""
    for module in ("actors", *filter(None, (name.strip() for name in actor_modules.split(",")))):
        importlib.import_module(module)
        logs.take_in(module)
    registry.add_canaries()
    return registry


def job(name: str, *, payload: Any, **options: Any) -> Callable[[JobFunction], JobFunction]:  # noqa: ANN401
    """Register the decorated function as the job type `name`; `options` are the further fields of `JobType`."""

    def register(function: JobFunction) -> JobFunction:
        registry.add(JobType(name=name, payload=payload, function=function, **options))
        return function

    return register


def spelling(name: str) -> str:
    """Return the form under which the spellings of one type meet."""
    return name.lower().replace("_", "-")
