"""The attachments of a mail: in the payload, or a file that an earlier job wrote."""

import mimetypes
import unicodedata
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Annotated

import msgspec
from msgspec import Meta

from jobs_service.errors import InvalidRequest
from jobs_service.outputs.contract import OutputStore

MAX_ATTACHMENTS = 20
#: All attachments of a mail together, if there are files among them. base64 adds a third, which most servers accept.
MAX_ATTACHED_BYTES = 10_485_760
MAX_FILENAME_CHARACTERS = 100

_MEDIA_TYPE = r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,63}\Z"
#: Types whose content has parts of its own, which would have to be parsed.
_COMPOSITE = ("multipart/", "message/")
_REFERENCE = r"^(output/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z"
#: Characters that Windows refuses in file names, or that mail programs interpret differently.
_NOT_IN_NAMES = '\\/:*?"<>|'
_ANYTHING = "application/octet-stream"
#: The standard library's own list, without the files of this machine.
_media_types = mimetypes.MimeTypes()


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attachment: its content, or the output file that has it."""

    #: base64 in JSON.
    content: bytes | None = None
    #: The reference that a job returned for its file, "output/<job-id>.csv".
    output: Annotated[str, Meta(pattern=_REFERENCE)] | None = None
    filename: Annotated[str, Meta(min_length=1, max_length=MAX_FILENAME_CHARACTERS)] | None = None
    media_type: Annotated[str, Meta(pattern=_MEDIA_TYPE)] | None = None

    @property
    def output_name(self) -> str:
        return (self.output or "").removeprefix("output/")

    @property
    def shown_name(self) -> str:
        return self.filename or self.output_name

    @property
    def shown_type(self) -> tuple[str, str]:
        guessed, encoding = _media_types.guess_type(f"file:{self.shown_name}")
        media_type = self.media_type or (None if encoding else guessed) or _ANYTHING
        maintype, _, subtype = media_type.partition("/")
        return maintype, subtype


Attachments = Annotated[tuple[Attachment, ...], Meta(max_length=MAX_ATTACHMENTS)]


def check(attachments: Attachments) -> None:
    """Check what the types do not express. Raises `InvalidRequest`."""
    for index, attachment in enumerate(attachments):
        if problem := next(_problems(attachment), None):
            field, sentence = problem
            raise InvalidRequest(sentence, pointer=f"/payload/attachments/{index}{field}")


def attach(message: EmailMessage, attachments: Attachments, outputs: OutputStore) -> None:
    """Read the files and add all attachments.

    Raises `Rejected` for a file that is too large, `FileNotFoundError` for one that does not exist, or not yet.
    """
    bytes_left = MAX_ATTACHED_BYTES
    for attachment in attachments:
        content = attachment.content
        if content is None:
            content = outputs.read(attachment.output_name, max_bytes=bytes_left)
        bytes_left = max(0, bytes_left - len(content))
        maintype, subtype = attachment.shown_type
        message.add_attachment(content, maintype=maintype, subtype=subtype, filename=attachment.shown_name)


def _problems(attachment: Attachment) -> Iterator[tuple[str, str]]:
    """Yield (pointer to the field, what is wrong)."""
    if (attachment.content is None) == (attachment.output is None):
        yield "", "send either content or output"
    if not _is_plain_name(attachment.shown_name):
        yield (
            "/filename",
            f"expected a file name that is valid on every system, without {_NOT_IN_NAMES} and control characters",
        )
    if (attachment.media_type or "").lower().startswith(_COMPOSITE):
        yield "/media_type", "expected a media type other than multipart/… and message/…"


def _is_plain_name(name: str) -> bool:
    """Tell whether recipients can store a file of this name, and whether mail programs show the name unchanged."""
    has_odd_ends = name != name.strip() or not name.strip(".") or name.endswith(".")
    return not has_odd_ends and not set(name) & set(_NOT_IN_NAMES) and all(map(_is_visible, name)) and "=?" not in name


def _is_visible(character: str) -> bool:
    """Return False for control and format characters, line breaks and lone surrogates."""
    category = unicodedata.category(character)
    return category[0] != "C" and category not in {"Zl", "Zp"}
