"""/console/jobs/new: a form for a job, made from its type's JSON Schema, and the same as a command of curl."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import falcon
import msgspec
from falcon.asgi import Request, Response

from jobs_service.api.console import form_fields
from jobs_service.api.console.calls import CallRefused, Reply
from jobs_service.api.console.curl import as_curl
from jobs_service.api.console.job_draft import MEMBER, PAYLOAD, Draft, options
from jobs_service.api.console.pages import Page, page
from jobs_service.api.resources.jobs import parse_id
from jobs_service.jobs.lifecycle import TERMINAL

#: Of the second of two clicks: how often, and after how many seconds, the answer to the first one is asked for.
TRIES, PAUSE_SECONDS = 30, 0.1

#: A longer body is not shown as a command.
MAX_SHOWN_BYTES = 8_192

#: Why this form is of no use to the caller is said on a page of its own.
_NOT_ALLOWED = (falcon.HTTP_UNAUTHORIZED, falcon.HTTP_FORBIDDEN)

#: What an edited retry takes over from the finished job.
_INHERITED = ("queue", "priority", "max_attempts", "timeout_seconds", "on_ambiguous", "tags")


class _Finished(msgspec.Struct):
    """Of a job, what a retry with changes begins with. Each value is JSON as it is."""

    type: str
    status: str
    payload: msgspec.Raw
    queue: msgspec.Raw
    priority: msgspec.Raw
    max_attempts: msgspec.Raw
    timeout_seconds: msgspec.Raw
    on_ambiguous: msgspec.Raw
    tags: msgspec.Raw


class NewJob(Page):
    """/console/jobs/new."""

    @page()
    async def on_get(self, req: Request, resp: Response) -> None:
        if retry_of := req.get_param("retry_of"):
            self._show(req, resp, await self._draft_of_retry(req, retry_of))
        elif name := req.get_param("type"):
            draft = await self._new_draft(req, name, is_json=req.get_param("mode") == "json")
            with_example = _with_example(draft)
            self._show(req, resp, with_example if req.get_param("example") else draft, commanded=with_example)
        else:
            known = await self.api.get(req, "/job-types")
            self.show(req, resp, "job_types.html", title="New job", job_types=known["job_types"])

    @page()
    async def on_post(self, req: Request, resp: Response) -> None:
        typed = await self.form(req)
        retry_of = str(parse_id(typed["retry_of"])) if "retry_of" in typed else ""
        draft = await self._new_draft(req, typed.get("type", ""), is_json=typed.get("mode") == "json")
        draft = replace(draft, typed=typed, key=_key(typed.get("key", "")), retry_of=retry_of)
        if retry_of and _is_sensitive(draft):
            draft = replace(draft, fields=None, is_hidden=True)
        match typed.get("do"):
            case "json" | "form" as mode:
                self._show(req, resp, await self._in_mode(req, draft, mode))
            case "show":
                self._show(req, resp, replace(draft, wrong=draft.body()[1]))
            case _:
                await self._submit(req, resp, draft)

    async def _new_draft(self, req: Request, type_name: str, *, is_json: bool = False) -> Draft:
        job_type = await self.api.get(req, f"/job-types/{type_name}")
        known = await self.api.get(req, "/job-types")
        queues = sorted({known_type["queue"] for known_type in known["job_types"]})
        fields = None if is_json else form_fields.fields_of(job_type["payload_schema"])
        checked = form_fields.initial_texts(fields or [])
        return Draft(
            job_type=job_type,
            fields=fields,
            options=options(job_type, queues),
            typed={f"{MEMBER}{name}": text for name, text in checked.items()},
            key=new_key(),
        )

    async def _draft_of_retry(self, req: Request, retry_of: str) -> Draft:
        """Return a draft with all that the finished job has."""
        job_id = str(parse_id(retry_of))
        job = msgspec.json.decode((await self.api.call(req, "GET", f"/jobs/{job_id}")).content, type=_Finished)
        draft = await self._new_draft(req, job.type)
        inherited = {
            option.name: option.text_of(bytes(getattr(job, option.name)))
            for option in draft.options
            if option.name in _INHERITED
        }
        is_finished = job.status in TERMINAL
        problem = "" if is_finished else f"The job is {job.status}: it can be run again when it has ended."
        draft = replace(draft, typed={**draft.typed, **inherited}, retry_of=job_id, problem=problem)
        if _is_sensitive(draft):
            return replace(draft, fields=None, is_hidden=True)
        return draft.with_payload(bytes(job.payload), as_json=req.get_param("mode") == "json")

    async def _in_mode(self, req: Request, draft: Draft, mode: str) -> Draft:
        """Return the draft with its payload as JSON or in fields, where that can be made of what was typed."""
        payload, wrong = draft.payload()
        if wrong:
            return replace(draft, wrong=wrong)
        if mode == "json":
            return draft.with_payload(bytes(payload), as_json=True)
        in_fields = replace(await self._new_draft(req, draft.job_type["name"]), **_kept(draft))
        in_fields = in_fields.with_payload(bytes(payload), as_json=False)
        if in_fields.fields is None:
            return replace(draft, wrong={PAYLOAD: "The form has no fields for all of this payload."})
        return in_fields

    async def _submit(self, req: Request, resp: Response, draft: Draft) -> None:
        body, wrong = draft.body()
        if wrong:
            resp.status = falcon.HTTP_UNPROCESSABLE_ENTITY
            self._show(req, resp, replace(draft, wrong=wrong))
            return
        try:
            answer = await self._call(req, draft, body)
        except CallRefused as error:
            resp.status = falcon.code_to_http_status(error.reply.status)
            if resp.status in _NOT_ALLOWED:
                raise
            self._show(req, resp, _refused(draft, error))
            return
        self.done(req, resp, f"/jobs/{answer.json['job_id']}", "submitted")

    async def _call(self, req: Request, draft: Draft, body: Mapping[str, Any]) -> Reply:
        """Submit the job. While a first click is being answered, wait for its answer."""
        headers = {"Idempotency-Key": f'"{draft.key}"'}
        for _ in range(TRIES):
            try:
                return await self.api.call(req, "POST", draft.path, body=body, headers=headers)
            except CallRefused as error:
                if error.code != "idempotency_key_in_flight":
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
        return await self.api.call(req, "POST", draft.path, body=body, headers=headers)

    def _show(self, req: Request, resp: Response, draft: Draft, *, commanded: Draft | None = None) -> None:
        """Show the form, beside it the command for `commanded`: an empty form has that of the example."""
        self.show(
            req,
            resp,
            "new_job.html",
            title="Retry with changes" if draft.retry_of else f"New {draft.job_type['name']} job",
            draft=draft,
            example=_example(draft),
            has_form=not draft.is_hidden and form_fields.fields_of(draft.job_type["payload_schema"]) is not None,
            **_command(req, commanded or draft),
        )


def base_url(req: Request) -> str:
    """Return the address of the API as the caller's browser has it."""
    return f"{req.forwarded_scheme}://{req.forwarded_host}{req.root_path}"


def new_key() -> str:
    """Return the Idempotency-Key of a form."""
    return str(uuid4())


def _is_sensitive(draft: Draft) -> bool:
    return bool(draft.job_type.get("is_sensitive"))


def _with_example(draft: Draft) -> Draft:
    example = draft.job_type["example"]
    return draft if example is None else draft.with_payload(msgspec.json.encode(example), as_json=draft.fields is None)


def _example(draft: Draft) -> str:
    """Return the type's example as JSON, "" if there is none."""
    example = draft.job_type["example"]
    return "" if example is None else form_fields.pretty_json(msgspec.json.encode(example))


def _command(req: Request, draft: Draft) -> dict[str, Any]:
    """Return the command that submits the draft, or why there is none."""
    body, wrong = draft.body()
    size = len(msgspec.json.encode(body))
    if wrong:
        return {"command": "", "why_none": "It is here when every field can be read."}
    if size > MAX_SHOWN_BYTES:
        return {"command": "", "why_none": f"The request has {size:,} bytes: too many for a command."}
    url = f"{base_url(req)}{draft.path}"
    has_key = req.context.caller.name != "anonymous"
    return {"command": as_curl("POST", url, body, has_key=has_key), "why_none": ""}


def _refused(draft: Draft, error: CallRefused) -> Draft:
    """Return the draft with what the API says. What was typed stays."""
    if error.code == "idempotency_key_reused":
        return replace(
            draft,
            key=new_key(),
            problem="You have submitted this form before, with other values. Submit it again for a further job.",
            code=error.code,
        )
    return draft.refused(error.problem)


def _kept(draft: Draft) -> dict[str, Any]:
    return {"typed": draft.typed, "key": draft.key, "retry_of": draft.retry_of}


def _key(text: str) -> str:
    """Return the Idempotency-Key that a form has sent, or a new one for what is none."""
    try:
        return str(UUID(text))
    except ValueError:
        return new_key()
