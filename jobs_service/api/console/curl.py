"""A request of the API as a command of curl, to be pasted into a shell."""

import re
import shlex

import msgspec

#: Where the caller needs a key, the command takes it from this variable of the shell: no page shows one.
KEY_VARIABLE = "JOBS_KEY"

#: Longer JSON has a line for each value.
LINE_BYTES = 80

#: Characters that a terminal does not show, or that change the order of others. In JSON they can be escaped.
_INVISIBLE = re.compile("[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def as_curl(method: str, url: str, body: object | None = None, *, has_key: bool) -> str:
    """Return the command. `body` is sent as JSON; what is a `msgspec.Raw` in it keeps its digits.

    With `has_key` the command sends an API key, from the shell's variable JOBS_KEY.
    """
    words = ["curl"]
    # curl's own choice is GET, and POST for a body.
    if method != ("GET" if body is None else "POST"):
        words.append(f"-X {method}")
    options = [" ".join([*words, shlex.quote(url)])]
    if has_key:
        options.append(f'-H "Authorization: Bearer ${KEY_VARIABLE}"')
    if body is not None:
        options += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(_json(body))}"]
    return " \\\n  ".join(options)


def _json(body: object) -> str:
    text = msgspec.json.format(msgspec.json.encode(body), indent=-1)
    if len(text) > LINE_BYTES:
        text = msgspec.json.format(text, indent=2)
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode("utf-8", "replace"))
