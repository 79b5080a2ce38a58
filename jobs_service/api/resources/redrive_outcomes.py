"""/dead-letters/redrives/{redrive_id}/outcomes: what became of the jobs that a redrive has run again."""

from http import HTTPStatus
from typing import Annotated

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import Answer, Header, operation
from jobs_service.api.resources.bulk_actions import OneAction
from jobs_service.api.resources.database import PROBLEMS
from jobs_service.api.resources.dead_letter_actions import REDRIVE
from jobs_service.api.resources.dead_letters import EXAMPLE as DEAD_LETTER, DeadLetter, shown
from jobs_service.jobs import redrive_outcomes
from jobs_service.jobs.lifecycle import Status
from jobs_service.jobs.redrive_outcomes import MOST_COUNTED, SAMPLE

_MORE = f"{MOST_COUNTED:,} means as many or more."


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the jobs that a redrive has moved are in which state now."""

    pending: Annotated[int, Meta(description=_MORE)]
    processing: Annotated[int, Meta(description=_MORE)]
    completed: Annotated[int, Meta(description=_MORE)]
    failed_again: Annotated[int, Meta(description=_MORE)]
    cancelled: Annotated[int, Meta(description=_MORE)]
    last_failed: Annotated[list[DeadLetter], Meta(description=f"The last {SAMPLE} that failed again.")]


_EXAMPLE = {
    "pending": 20,
    "processing": 4,
    "completed": 75,
    "failed_again": 1,
    "cancelled": 0,
    "last_failed": [DEAD_LETTER],
}
_PATH = {
    "redrive_id": Header("redrive_id", "The id of a redrive.", example="0197a40b-91d2-7c44-8a1e-5d1f0c9b7e23"),
}


class RedriveOutcomes(OneAction):
    """/dead-letters/redrives/{redrive_id}/outcomes."""

    noun = REDRIVE

    @operation(
        id="get_redrive_outcomes",
        summary="Read what became of the jobs that a redrive has run again",
        description=(
            "A job that another redrive of many has run again since counts there, and one that was deleted nowhere: the"
            " numbers may add up to less than the redrive's `moved`."
        ),
        tag="dead letters",
        scope=Scope.JOBS_READ,
        answers={HTTPStatus.OK: Answer("What became of them.", Outcomes, example=_EXAMPLE)},
        path=_PATH,
        problems=(*PROBLEMS, "redrive_not_found"),
    )
    async def on_get(self, req: Request, resp: Response, redrive_id: str) -> None:  # noqa: ARG002
        resp.data = await self.run(self._outcomes, redrive_id)

    on_head = on_get

    def _outcomes(self, redrive_id: str) -> bytes:
        outcomes = redrive_outcomes.read(self.database, self.find(redrive_id).id)
        jobs = {str(state): count for state, count in outcomes.jobs.items()}
        jobs["failed_again"] = jobs.pop(Status.FAILED)
        return msgspec.json.encode(Outcomes(**jobs, last_failed=[shown(each) for each in outcomes.last_failed]))
