"""/dead-letters/redrives and /dead-letters/discards: many dead letters are run again, or deleted."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from jobs_service.api.callers import Scope
from jobs_service.api.operations import operation
from jobs_service.api.resources import dead_letters as resources
from jobs_service.api.resources.bulk_actions import EXAMPLE, MORE, ActionForm, Actions, BulkAction, Noun, OneAction
from jobs_service.api.resources.dead_letters import DeadLetter, DeadLetterFilter
from jobs_service.jobs import dead_letters
from jobs_service.jobs.bulk_actions import MOST_MEMBERS, SAMPLE, Kind, Selection


class RedriveForm(ActionForm, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a redrive: either `filter` or `all`."""

    filter: Annotated[DeadLetterFilter | None, Meta(description="Has at least one condition.")] = None


class DiscardForm(ActionForm, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a discard: either `filter` or `all`."""

    filter: Annotated[DeadLetterFilter | None, Meta(description="Has at least one condition.")] = None


_COUNT = f"At most {MOST_MEMBERS:,}: an action has no more members."


class Preview(msgspec.Struct, frozen=True):
    """The dead letters that an action would have as members now. Nothing was changed."""

    count: Annotated[int, Meta(description=_COUNT)]
    is_capped: Annotated[bool, Meta(description=MORE)]
    sample: Annotated[list[DeadLetter], Meta(description=f"The first {SAMPLE} of them.")]


class RedrivePage(msgspec.Struct, frozen=True):
    """Redrives, the newest first."""

    redrives: list[BulkAction]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


class DiscardPage(msgspec.Struct, frozen=True):
    """Discards, the newest first."""

    discards: list[BulkAction]
    next_cursor: Annotated[str | None, Meta(description="The `cursor` of the next page; null on the last one.")]


REDRIVE = Noun(
    kind=Kind.REDRIVE,
    plural="redrives",
    path="/dead-letters/redrives",
    tag="dead letters",
    scope=Scope.DEAD_LETTERS_WRITE,
    form=RedriveForm,
    preview=Preview,
    page=RedrivePage,
    example=EXAMPLE,
    sample=resources.EXAMPLE,
)
DISCARD = Noun(
    kind=Kind.DISCARD,
    plural="discards",
    path="/dead-letters/discards",
    tag="dead letters",
    scope=Scope.DEAD_LETTERS_WRITE,
    form=DiscardForm,
    preview=Preview,
    page=DiscardPage,
    example=EXAMPLE | {"kind": "discard"},
    sample=resources.EXAMPLE,
)
_DEAD_LETTER_EXAMPLES: Mapping[str, object] = {
    "dry run": {"filter": {"type": "csv-generation"}, "dry_run": True},
    "a group": {"filter": {"group": resources.EXAMPLE["group_id"]}, "rate_per_second": 20},
    "all": {"all": True},
}


class DeadLetterActions(Actions):
    """An action on dead letters."""

    def conditions(self, wanted: DeadLetterFilter) -> dict[str, Any]:
        return resources.conditions(wanted, self.registry)

    def selection(self, chosen: dict[str, Any]) -> Selection:
        return dead_letters.selection(chosen)

    def preview(self, chosen: dict[str, Any]) -> bytes:
        count, is_capped, sample = dead_letters.preview(self.database, chosen)
        return msgspec.json.encode(Preview(count, is_capped, [resources.shown(each) for each in sample]))


class Redrives(DeadLetterActions):
    """/dead-letters/redrives."""

    noun = REDRIVE

    @operation(
        **REDRIVE.begins(
            id="redrive_dead_letters",
            summary="Run many dead letters again",
            description=(
                "The dead letters that match now are the members of the action: none that fails later joins it, and a"
                " member that fails again is not run once more."
            ),
            examples=_DEAD_LETTER_EXAMPLES,
        )
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        await self.begin(req, resp)

    @operation(**REDRIVE.lists())
    async def on_get(self, req: Request, resp: Response) -> None:
        await self.list(req, resp)

    on_head = on_get


class Discards(DeadLetterActions):
    """/dead-letters/discards."""

    noun = DISCARD

    @operation(
        **DISCARD.begins(
            id="discard_dead_letters",
            summary="Delete many failed jobs",
            description=(
                "The dead letters that match now are the members of the action. One that was run again meanwhile is not"
                " deleted. Files that the jobs wrote follow within minutes."
            ),
            examples=_DEAD_LETTER_EXAMPLES,
        )
    )
    async def on_post(self, req: Request, resp: Response) -> None:
        await self.begin(req, resp)

    @operation(**DISCARD.lists())
    async def on_get(self, req: Request, resp: Response) -> None:
        await self.list(req, resp)

    on_head = on_get


class RedriveItem(OneAction):
    """/dead-letters/redrives/{redrive_id}."""

    noun = REDRIVE

    @operation(**REDRIVE.reads())
    async def on_get(self, req: Request, resp: Response, redrive_id: str) -> None:  # noqa: ARG002
        await self.read(resp, redrive_id)

    on_head = on_get


class RedriveStop(OneAction):
    """/dead-letters/redrives/{redrive_id}/cancel."""

    noun = REDRIVE

    @operation(**REDRIVE.stops(description="Jobs that were moved stay moved; the others stay dead letters."))
    async def on_post(self, req: Request, resp: Response, redrive_id: str) -> None:
        await self.stop(req, resp, redrive_id)


class DiscardItem(OneAction):
    """/dead-letters/discards/{discard_id}."""

    noun = DISCARD

    @operation(**DISCARD.reads())
    async def on_get(self, req: Request, resp: Response, discard_id: str) -> None:  # noqa: ARG002
        await self.read(resp, discard_id)

    on_head = on_get


class DiscardStop(OneAction):
    """/dead-letters/discards/{discard_id}/cancel."""

    noun = DISCARD

    @operation(**DISCARD.stops(description="Jobs that were deleted are gone; the others stay dead letters."))
    async def on_post(self, req: Request, resp: Response, discard_id: str) -> None:
        await self.stop(req, resp, discard_id)
