"""Lists that the API returns whole, in pages for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from falcon.asgi import Request


@dataclass(frozen=True)
class Slice:
    """The items of one page, of how many, and where the pages beside it are."""

    items: Sequence[Any]
    total: int
    number: int
    last: int
    #: The number of the first item of the page, from 1.
    first_item: int

    @classmethod
    def of(cls, items: Sequence[Any], size: int, number: int = 1) -> "Slice":
        """Return a page of so many items, the last one for a number that is too large."""
        last = max(1, -(-len(items) // size))
        number = min(number, last)
        start = (number - 1) * size
        return cls(items[start : start + size], len(items), number, last, start + 1)

    @property
    def last_item(self) -> int:
        return self.first_item + len(self.items) - 1


def sliced(items: Sequence[Any], req: Request, size: int) -> Slice:
    """Return the page that the parameter `page` names."""
    return Slice.of(items, size, req.get_param_as_int("page", min_value=1, default=1))
