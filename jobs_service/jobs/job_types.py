"""The job types: name, payload class, function and options. `@job` declares them; the worker binds them to Dramatiq."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import msgspec

from jobs_service.errors import LeaseLost, UnknownJobType
from jobs_service.jobs.notes import JobLog
from jobs_service.jobs.validation import decoded, encoded, invalid
from jobs_service.mail.mailer import Mailer
from jobs_service.observability import logs
from jobs_service.outputs.contract import OutputStore

DEFAULT_QUEUE = "default"

#: The maximum length of a type's name, in characters: that of the column `jobs.type`.
MAX_NAME = 50

CANARY_LIMIT_SECONDS = 30


class Reporter(Protocol):
    """Takes how far an attempt is."""

    def __call__(self, done: float, total: float | None = None, note: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a job's function gets besides its payload: the attempt's identity, and where its effects go."""

    job_id: UUID
    #: 1 for the first attempt.
    number: int
    outputs: OutputStore
    mailer: Mailer
    #: To be called just before an effect that cannot be undone. Raises `LeaseLost` when the attempt no longer holds the
    #: job. From then on, if the attempt is killed its outcome is unknown, and `on_ambiguous` decides what happens next.
    begin_effect: Callable[[], None] = lambda: None
    #: Whether the job has been cancelled. Its code is then interrupted, except while it waits outside of Python or runs
    #: in threads of its own.
    is_cancelled: Callable[[], bool] = lambda: False
    #: To be called with a server's name before each request to it. Raises `Unavailable` at once while the server is
    #: known to be unavailable: the job is then deferred until the server is back.
    ask: Callable[[str], None] = lambda server: None  # noqa: ARG005 - callers may pass it by name
    #: Says how far the attempt is: `progress(done, total, note)`. Clients see it within about a second. Cheap enough to
    #: be called for each row.
    progress: Reporter = lambda done, total=None, note="": None  # noqa: ARG005 - as above
    #: The job's own logger. Its lines are kept with the attempt too, up to a limit.
    log: JobLog = field(default_factory=JobLog)

    @property
    def cancelled(self) -> bool:
        """Whether the job has been cancelled: what its code does from now on is not wanted."""
        return self.is_cancelled()

    def stop_if_cancelled(self) -> None:
        """To be called between two steps. Raises `LeaseLost` if the job has been cancelled."""
        if self.is_cancelled():
            raise LeaseLost("the job was cancelled, or given to another worker")


#: Takes the typed payload and the context, and returns a small JSON value: the job's `result`.
JobFunction = Callable[[Any, JobContext], object]


@dataclass(frozen=True, slots=True)
class JobType:
    """One kind of job. Durations are in seconds. None means that the service's setting applies."""

    name: str
    payload: Any
    function: JobFunction
    #: Raises `InvalidRequest` for a payload that matches its type but is invalid.
    check: Callable[[Any], None] | None = None
    queue: str = DEFAULT_QUEUE
    max_attempts: int | None = None
    time_limit_seconds: int | None = None
    #: Where the payload's type does not say otherwise, decode numbers with a point or an exponent as `Decimal`, which
    #: keeps all digits, instead of `float`.
    decimals: bool = False
    #: The maximum number of its jobs that run at a time in one worker process.
    max_running: int | None = None
    #: A payload that it accepts, for documentation.
    example: object = None
    #: Submitted by maintenance to check that its queue works. Lists of jobs leave it out.
    is_canary: bool = False
    #: Its payloads, results and log lines are not for everyone who may look at the console, which hides them.
    is_sensitive: bool = False
    #: Further types for the document, where `payload` accepts their JSON without naming them.
    forms: tuple[Any, ...] = ()

    @property
    def description(self) -> str:
        """What it does: the docstring of its function, and what its payload class says about itself."""
        is_struct = isinstance(self.payload, type) and issubclass(self.payload, msgspec.Struct)
        payload = self.payload.__doc__ if is_struct else None
        texts = (inspect.cleandoc(text) for text in (self.function.__doc__, payload) if text)
        return "\n\n".join(texts)

    def decode(self, payload: str | bytes) -> Any:  # noqa: ANN401 - each type has a payload class of its own
        """Return the typed payload from JSON. Raises `InvalidRequest`, pointing below `/payload`."""
        text = payload.encode() if isinstance(payload, str) else payload
        try:
            return self._checked(decoded(text, self.payload, decimals=self.decimals))
        except msgspec.ValidationError as error:
            raise invalid(error, below="/payload") from None

    def parse(self, payload: object) -> Any:  # noqa: ANN401
        """Return the typed payload from a Python value. For tests of job types."""
        return self.decode(encoded(payload))

    def _checked(self, payload: Any) -> Any:  # noqa: ANN401
        if self.check is not None:
            self.check(payload)
        return payload


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a canary."""


def noop(payload: Nothing, context: JobContext) -> None:
    """Do nothing, so that a canary measures only the time that the service itself takes."""


@dataclass(slots=True)
class Registry:
    """The job types by name. Names ignore case and treat `_` as `-`: CSV_GENERATION is csv-generation."""

    _types: dict[str, JobType] = field(default_factory=dict)

    def add(self, job_type: JobType) -> None:
        key = spelling(job_type.name)
        if key in self._types:
            raise ValueError(f"job type {job_type.name!r} is declared twice: rename one of the two")
        self._types[key] = job_type

    def get(self, name: str) -> JobType:
        """Return the job type of this name. Raises `UnknownJobType`, which lists the known types."""
        try:
            return self._types[spelling(name)]
        except KeyError:
            known = ", ".join(self.names)
            raise UnknownJobType(f"unknown job type {name[:64]!r}; known types: {known}", pointer="/type") from None

    @property
    def names(self) -> list[str]:
        """The names of all types but canaries."""
        return sorted(job_type.name for job_type in self if not job_type.is_canary)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that no type has, to report mistyped ones."""
        return [name for name in names if spelling(name) not in self._types]

    def __iter__(self) -> Iterator[JobType]:
        return iter(self._types.values())

    @property
    def canaries(self) -> list[JobType]:
        return [job_type for job_type in self if job_type.is_canary]

    def add_canaries(self) -> None:
        """Add a canary type for each queue that has none yet."""
        for queue in {*self.queues} - {job_type.queue for job_type in self.canaries}:
            name = f"canary-{queue}"[:MAX_NAME]
            self.add(JobType(name, Nothing, noop, queue=queue, time_limit_seconds=CANARY_LIMIT_SECONDS, is_canary=True))

    @property
    def queues(self) -> list[str]:
        return sorted({job_type.queue for job_type in self})


#: The registry that `@job` adds to. Importing `actors` registers every type, without binding it to a broker.
registry = Registry()


def load(actor_modules: str = "") -> Registry:
    """Import `actors` and the further modules named in `actor_modules`, separated by commas. Return the registry."""
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
    """Return the normal form of a type's name, in which all its spellings are equal."""
    return name.lower().replace("_", "-")
