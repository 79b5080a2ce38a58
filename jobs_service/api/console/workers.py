"""/console/workers: the worker processes, what they run, and which code."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from falcon.asgi import Request, Response

from jobs_service.api.console.listing import sliced
from jobs_service.api.console.pages import Page, page
from jobs_service.errors import InvalidRequest

#: Rows of a page, and jobs of a worker that its row shows: with so many the page stays under 60 KB.
PAGE_WORKERS, SHOWN_JOBS = 25, 2

#: Jobs that are shown of one worker by itself, and those that run longest of all.
ALL_JOBS, LONGEST_JOBS = 100, 5


class WorkerView:
    """A worker process as the API describes it."""

    def __init__(self, worker: Mapping[str, Any]) -> None:
        self.facts = worker
        self.is_live: bool = worker["is_live"]
        self.name = f"{worker['host']}:{worker['pid']}"
        #: Those that run longest first.
        self.jobs = sorted(worker["current_jobs"], key=_began)

    @property
    def is_full(self) -> bool:
        """Whether all its threads are busy."""
        busy, threads = self.facts["busy"], self.facts["threads"]
        return bool(self.is_live and threads and busy >= threads)


#: What the list can be narrowed to: a word, and which workers these are.
CHIPS: dict[str, tuple[str, Callable[[WorkerView], bool]]] = {
    "lost": ("Lost", lambda worker: not worker.is_live),
    "full": ("All threads busy", lambda worker: worker.is_full),
    "idle": ("Idle", lambda worker: worker.is_live and not worker.jobs),
}


class Workers(Page):
    """/console/workers."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        found = (await self.api.get(req, "/workers"))["workers"]
        workers = sorted(map(WorkerView, found), key=lambda worker: (worker.is_live, worker.name))
        filters = {name: req.get_param(name) or "" for name in ("q", "queue", "version", "state", "worker")}
        matching = _matching(workers, filters)
        live = [worker for worker in workers if worker.is_live]
        self.show(
            req,
            resp,
            "workers.html",
            title="Workers",
            live="/events",
            refresh=5,
            shown=sliced(matching, req, PAGE_WORKERS),
            most_jobs=ALL_JOBS if filters["worker"] else SHOWN_JOBS,
            total=len(workers),
            live_count=len(live),
            busy=sum(worker.facts["busy"] for worker in live),
            threads=sum(worker.facts["threads"] for worker in live),
            versions=Counter(worker.facts["version"] or "" for worker in live).most_common(),
            longest=_longest(matching),
            chips=_chips(workers),
            filters=filters,
        )


def _matching(workers: Iterable[WorkerView], filters: Mapping[str, str]) -> list[WorkerView]:
    """Return the workers that all the filters match. Raises `InvalidRequest`."""
    state = filters["state"]
    if state and state not in CHIPS:
        raise InvalidRequest(f"expected one of {', '.join(CHIPS)}", pointer="state")
    return [worker for worker in workers if _is_wanted(worker, filters) and (not state or CHIPS[state][1](worker))]


def _is_wanted(worker: WorkerView, filters: Mapping[str, str]) -> bool:
    wanted = {"worker_id": filters["worker"], "version": filters["version"]}
    return (
        filters["q"].casefold() in worker.name.casefold()
        and (not filters["queue"] or filters["queue"] in worker.facts["queues"])
        and all(worker.facts[name] == value for name, value in wanted.items() if value)
    )


def _chips(workers: Iterable[WorkerView]) -> list[tuple[str, str, int]]:
    """Return (state, word, how many workers) of what there is."""
    counts = [(state, word, sum(map(matches, workers))) for state, (word, matches) in CHIPS.items()]
    return [chip for chip in counts if chip[2]]


def _longest(workers: Iterable[WorkerView]) -> list[tuple[Mapping[str, Any], WorkerView]]:
    """Return the jobs that run longest, with their workers."""
    jobs = [(job, worker) for worker in workers for job in worker.jobs[:LONGEST_JOBS]]
    return sorted(jobs, key=lambda found: _began(found[0]))[:LONGEST_JOBS]


def _began(job: Mapping[str, Any]) -> str:
    """Return when a job began: times of the API have the order of their texts."""
    return job["started_at"] or ""
