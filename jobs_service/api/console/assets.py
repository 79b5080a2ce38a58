"""/console/files/{name}: the style sheet, the scripts and the icon. Names change with the content."""

import hashlib
from functools import cached_property
from pathlib import Path

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.operations import operation

STATIC = Path(__file__).parent / "static"

_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


class Assets:
    """The files, by names with a digest, such as console.4f1c2ab0.css: a browser keeps one for as long as it likes."""

    @cached_property
    def names(self) -> dict[str, str]:
        """File name -> the name with the digest."""
        return {path.name: _name(path) for path in STATIC.iterdir()}

    @cached_property
    def _files(self) -> dict[str, tuple[str, bytes]]:
        return {_name(path): (_MEDIA_TYPES[path.suffix], path.read_bytes()) for path in STATIC.iterdir()}

    @operation(id="", summary="", tag="console", scope=None, answers={}, query=None)
    async def on_get(self, req: Request, resp: Response, name: str) -> None:  # noqa: ARG002
        if name not in self._files:
            raise falcon.HTTPNotFound(description="There is no such file.")
        resp.content_type, resp.data = self._files[name]
        resp.set_header("Cache-Control", "public, max-age=31536000, immutable")

    on_head = on_get


def _name(path: Path) -> str:
    return f"{path.stem}.{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}{path.suffix}"
