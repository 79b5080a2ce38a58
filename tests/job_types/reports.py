"""A payload with something of every kind that a form can show."""

import enum
from datetime import date
from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Paper(enum.StrEnum):
    """The sizes of paper."""

    A4 = "A4"
    LETTER = "letter"


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something of every kind that a form can show."""

    title: Annotated[str, Meta(min_length=1, max_length=80, description="The heading of the first page.")]
    pages: Annotated[int, Meta(ge=1, le=500)]
    paper: Paper
    recipients: Annotated[str | list[str], Meta(description="One address, or a list of them.")]
    scale: Annotated[float, Meta(gt=0, lt=2)] = 1.0
    copies: Literal[1, 2, 3] = 1
    is_urgent: bool = False
    has_cover: bool = True
    is_signed: bool | None = None
    code: Annotated[str, Meta(pattern="^[A-Z]{2}[0-9]+$")] | None = None
    day: date | None = None
    notes: Annotated[str, Meta(max_length=5_000)] | None = None
    margins: dict[str, int] | None = None
