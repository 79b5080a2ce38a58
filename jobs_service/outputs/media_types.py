"""The media type of a file, by its name."""

import mimetypes

ANYTHING = "application/octet-stream"

#: The standard library's own list, without the files of this machine.
_media_types = mimetypes.MimeTypes()


def media_type_of(name: str) -> str:
    """Return the media type. Texts are UTF-8: that of the built-in types is, and nothing else can be assumed."""
    guessed, encoding = _media_types.guess_type(f"file:{name}")
    if guessed is None or encoding:
        return ANYTHING
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
