"""Changes a pending job on the condition that it still is what the client has seen (RFC 9110, section 13.1.1)."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import falcon
import msgspec
from msgspec import UNSET, Meta, UnsetType

from jobs_service import events
from jobs_service.api import etags
from jobs_service.api.resources.follow_up import FollowUp
from jobs_service.broker.publisher import Publisher
from jobs_service.database.connection import Database
from jobs_service.errors import InvalidRequest
from jobs_service.jobs import lifecycle, queries
from jobs_service.jobs.validation import invalid
from jobs_service.submission.submit import MAX_TAGS, Tag, check_run_at

PATCH_MEDIA_TYPES = ("application/merge-patch+json", "application/json")

#: How often a change is begun anew because the row was written meanwhile, by the relay for example.
TRIES = 10


class JobPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A merge patch (RFC 7396) of a pending job. A field that is left out stays as it is."""

    run_at: Annotated[datetime, Meta(tz=True, description="A date in the past: at once.")] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=9)] | UnsetType = UNSET
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | UnsetType = UNSET
    tags: Annotated[list[Tag], Meta(max_length=MAX_TAGS)] | UnsetType | None = UNSET


def parse(patch: dict[str, Any]) -> lifecycle.Changes:
    """Return the changes of a merge patch. Raises `InvalidRequest`, which points to a field."""
    try:
        wanted = msgspec.convert(patch, JobPatch)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    fields = {name: value for name in JobPatch.__struct_fields__ if (value := getattr(wanted, name)) is not UNSET}
    if "tags" in fields:
        fields["tags"] = fields["tags"] or []
        if len(set(fields["tags"])) < len(fields["tags"]):
            raise InvalidRequest("send each tag only once", pointer="/tags")
    if "run_at" in fields:
        check_run_at(fields["run_at"], datetime.now(UTC))
    return lifecycle.Changes(**fields)


class JobChanger:
    """Changes pending jobs. Its methods block."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self.database = database
        self.publisher = publisher
        self.follow_up = FollowUp()

    def change(
        self, job_id: UUID, if_match: str, changes: lifecycle.Changes, *, not_found: falcon.HTTPNotFound
    ) -> None:
        """Change the job if it is what `If-Match` says. Raises `not_found`, 409, 412 or `InvalidRequest`.

        What is compared and what is changed is one version of the row: if it was written in between, both begin anew.
        """
        for _ in range(TRIES):
            version = lifecycle.version(self.database, job_id)
            job = queries.find_job(self.database, job_id)
            if version is None or job is None:
                raise not_found
            _check(job, if_match, changes)
            if changes == lifecycle.Changes() or self._is_changed(job, changes, version):
                return
        raise _precondition_failed("The job changes at this moment.")

    def _is_changed(self, job: queries.Job, changes: lifecycle.Changes, version: str) -> bool:
        lost_reply = lifecycle.LostReply()
        return self.follow_up.call(lambda: self._changed(job, changes, version, lost_reply), lost_reply)

    def _changed(
        self, job: queries.Job, changes: lifecycle.Changes, version: str, lost_reply: lifecycle.LostReply
    ) -> bool:
        changed = lifecycle.change(self.database, job.id, changes, version=version, lost_reply=lost_reply)
        if changed is None:
            return False
        if changes.run_at is not None or changes.priority is not None:
            self.publisher.move(changed, former_priority=job.priority)
        events.emit(
            events.JobChanged(job_id=str(job.id), type=changed.type, queue=changed.queue, changed=_names(changes))
        )
        return True


def _check(job: queries.Job, if_match: str, changes: lifecycle.Changes) -> None:
    if not etags.matches(if_match, etags.etag_of(msgspec.json.encode(job.representation()))):
        raise _precondition_failed("The job is not any more what If-Match says.")
    if job.status != lifecycle.Status.PENDING:
        description = f"The job has status {job.status}. Only a pending job can be changed."
        raise falcon.HTTPConflict(title="wrong_status", description=description)
    if changes.max_attempts is not None and changes.max_attempts <= job.attempts:
        raise InvalidRequest(
            f"the job has used {job.attempts} attempts: send more than that, or cancel it", pointer="/max_attempts"
        )
    if changes.run_at is not None and job.expires_at is not None and changes.run_at >= job.expires_at:
        raise InvalidRequest("run_at must be earlier than the job's expires_at", pointer="/run_at")


def _precondition_failed(sentence: str) -> falcon.HTTPPreconditionFailed:
    return falcon.HTTPPreconditionFailed(
        title="precondition_failed", description=f"{sentence} Nothing was changed: read the job, then decide anew."
    )


def _names(changes: lifecycle.Changes) -> str:
    return ", ".join(name for name in lifecycle.Changes.__slots__ if getattr(changes, name) is not None)
