"""Where the API is, and the key that it is asked with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from jobs_service import __version__

#: The API of `make run`.
LOCAL_URL = "http://localhost:3000"


@dataclass(frozen=True, slots=True)
class Target:
    """An API. Its `repr` does not show the key."""

    url: str
    key: str | None = field(repr=False)

    @classmethod
    def of(cls, url: str | None, key: str | None, environ: Mapping[str, str]) -> Self:
        """Return what is given, else what JOBS_URL and JOBS_KEY say."""
        return cls((url or environ.get("JOBS_URL") or LOCAL_URL).rstrip("/"), key or environ.get("JOBS_KEY") or None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        headers = {"User-Agent": f"jobs-client/{__version__}"}
        return headers | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
