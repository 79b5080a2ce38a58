"""A job as it is typed on the console's form: its request, and where the errors of the API belong."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from jobs_service.api.console import form_fields
from jobs_service.api.console.form_fields import Choice, Field, Kind

#: The name of the field that has the whole payload as JSON, and what names of its single fields begin with.
PAYLOAD, MEMBER = "payload", "p."


def options(job_type: Mapping[str, Any], queues: Iterable[str]) -> list[Field]:
    """Return the fields for how a job of this type is to run."""
    attempts, seconds = job_type["max_attempts"], job_type["time_limit_seconds"]
    choices = [Choice(msgspec.json.encode(queue).decode(), queue) for queue in queues]
    return [
        Field(name="queue", label="Queue", kind=Kind.CHOICE, choices=choices, hints=[f"default: {job_type['queue']}"]),
        Field(
            name="priority",
            label="Priority",
            kind=Kind.NUMBER,
            minimum=0,
            maximum=9,
            is_whole=True,
            hints=["0 to 9, higher ones run first; default: 5"],
        ),
        Field(name="delay_seconds", label="Delay in seconds", kind=Kind.NUMBER, minimum=0),
        Field(name="run_at", label="Not before (UTC)", kind=Kind.MOMENT, hints=["in place of a delay"]),
        Field(name="expires_at", label="Not after (UTC)", kind=Kind.MOMENT, hints=["no attempt starts later"]),
        Field(
            name="max_attempts",
            label="Attempts",
            kind=Kind.NUMBER,
            minimum=1,
            maximum=100,
            is_whole=True,
            hints=[f"1 to 100; default: {attempts}"],
        ),
        Field(
            name="timeout_seconds",
            label="Seconds for an attempt",
            kind=Kind.NUMBER,
            minimum=1,
            is_whole=True,
            hints=[f"default: {seconds:g}"],
        ),
        Field(
            name="on_ambiguous",
            label="If nobody knows whether an attempt had its effect",
            kind=Kind.CHOICE,
            choices=[Choice('"resend"', "try again"), Choice('"hold"', "hold the job for a person")],
            hints=["default: try again"],
        ),
        Field(name="tags", label="Tags", kind=Kind.LINES, hints=["one on each line, to find the job by"]),
    ]


class ShownField(NamedTuple):
    """A field with what was typed, as the template shows it."""

    id: str
    key: str
    field: Field
    text: str
    wrong: str
    placeholder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What was typed. Frozen, so that each step of a request has its own."""

    job_type: Mapping[str, Any]
    #: The fields for the payload; None: it is typed as JSON.
    fields: Sequence[Field] | None
    options: Sequence[Field]
    #: Texts by the names of the form's fields.
    typed: Mapping[str, str] = field(default_factory=dict)
    #: The Idempotency-Key of its submission.
    key: str = ""
    #: The finished job of which this is a retry with changes.
    retry_of: str = ""
    #: Whether the finished job's payload is not for everyone who may look at the console: it is taken over unseen.
    is_hidden: bool = False
    #: Sentences by the names of fields.
    wrong: Mapping[str, str] = field(default_factory=dict)
    #: What is wrong with all of it.
    problem: str = ""
    code: str = ""

    @property
    def path(self) -> str:
        """The path of the API's operation that takes it."""
        return f"/jobs/{self.retry_of}/retry" if self.retry_of else "/jobs"

    def payload(self) -> tuple[msgspec.Raw, dict[str, str]]:
        """Return the payload as JSON, empty where it is that of the finished job, and what is wrong with it."""
        if self.fields is not None:
            members = {item.name: self.typed.get(f"{MEMBER}{item.name}", "") for item in self.fields}
            payload, wrong = form_fields.payload_of(self.fields, members)
            return payload, {f"{MEMBER}{name}": sentence for name, sentence in wrong.items()}
        text = self.typed.get(PAYLOAD, "")
        if not text.strip():
            return msgspec.Raw(b""), {} if self.is_hidden else {PAYLOAD: "Type the payload, as JSON."}
        try:
            return msgspec.Raw(form_fields.json_text(text)), {}
        except ValueError as error:
            return msgspec.Raw(b""), {PAYLOAD: str(error)}

    def body(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the body of the request, and what is wrong with it by the names of fields."""
        payload, wrong = self.payload()
        body: dict[str, Any] = {} if self.retry_of else {"type": self.job_type["name"]}
        if bytes(payload):
            body["payload"] = payload
        for option in self.options:
            try:
                found = option.json_of(self.typed.get(option.name, ""))
            except ValueError as error:
                wrong[option.name] = str(error)
                continue
            if found is not None:
                body[option.name] = msgspec.Raw(found)
        if self.retry_of:
            # Left out, they would be those of the finished job.
            body.setdefault("tags", [])
        return body, wrong

    def with_payload(self, payload: bytes, *, as_json: bool) -> "Draft":
        """Return the draft with another payload: as JSON, or in fields where those can have all of it."""
        texts = None if as_json or self.fields is None else form_fields.texts_of(self.fields, payload)
        if texts is None:
            return replace(self, fields=None, typed={**self.typed, PAYLOAD: form_fields.pretty_json(payload)})
        return replace(self, typed={**self.typed, **{f"{MEMBER}{name}": text for name, text in texts.items()}})

    def refused(self, problem: Mapping[str, Any]) -> "Draft":
        """Return the draft with the errors of an answer, each at its field."""
        wrong, others = dict(self.wrong), []
        for error in problem.get("errors", []):
            key, sentence = self._place(error["pointer"], error["detail"])
            if key:
                wrong.setdefault(key, sentence)
            else:
                others.append(sentence)
        if not problem.get("errors"):
            others = [problem["detail"]]
        return replace(self, wrong=wrong, problem=" ".join(others), code=problem["code"])

    def _place(self, pointer: str, detail: str) -> tuple[str, str]:
        """Return the name of the field that an error is about, "" for none, and the sentence."""
        steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
        if not steps:
            return "", detail
        if steps[0] != "payload":
            is_option = steps[0] in {option.name for option in self.options}
            return (steps[0], _at(steps[1:], detail)) if is_option else ("", f"{pointer}: {detail}")
        if self.fields is None:
            return PAYLOAD, _at(steps[1:], detail)
        if steps[1:2] and steps[1] in {item.name for item in self.fields}:
            return f"{MEMBER}{steps[1]}", _at(steps[2:], detail)
        return "", _at(steps[1:], detail)

    def shown_fields(self) -> list[ShownField]:
        """Return the fields of the payload for the page."""
        return list(self._shown(self.fields or [], MEMBER, self._example_texts()))

    def shown_options(self) -> list[ShownField]:
        """Return the fields of the options for the page."""
        return list(self._shown(self.options, "", {}))

    def _shown(self, fields: Sequence[Field], prefix: str, examples: Mapping[str, str]) -> Iterator[ShownField]:
        for place, item in enumerate(fields):
            key = f"{prefix}{item.name}"
            text = self.typed.get(key, "")
            yield ShownField(
                f"{prefix or 'o.'}{place}", key, item, text, self.wrong.get(key, ""), examples.get(item.name, "")
            )

    def _example_texts(self) -> dict[str, str]:
        example = self.job_type["example"]
        if not isinstance(example, dict):
            return {}
        texts = {
            item.name: item.text_of(msgspec.json.encode(example[item.name]))
            for item in self.fields or []
            if item.name in example
        }
        # A placeholder in one line has no indentation.
        return {name: " ".join(text.split()) for name, text in texts.items()}


def _at(steps: Sequence[str], detail: str) -> str:
    sentence = f"{detail[:1].upper()}{detail[1:]}"
    return f"{sentence} (at /{'/'.join(steps)})" if steps else sentence
