"""Which site's page made a browser send a request: pages of other sites may change nothing here."""

import falcon
from falcon.asgi import Request

#: Methods that change nothing (RFC 9110, section 9.2.1).
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def check_origin(req: Request, *, is_from_a_browser: bool = False) -> None:
    """Refuse with 403 a request that another site's page made a browser send, and that may change something.

    By Sec-Fetch-Site, which every current browser sends to an address that it trusts, or else by comparing Origin with
    Host. Other clients send neither: where the request can only be a browser's, that is refused, too.
    """
    if req.method in SAFE:
        return
    site = req.get_header("Sec-Fetch-Site")
    origin = req.get_header("Origin")
    if site:
        is_own = site == "same-origin" or (site == "none" and not is_from_a_browser)
    elif origin is None:
        is_own = not is_from_a_browser
    else:
        is_own = origin.rpartition("//")[2].lower() == (req.get_header("Host") or "").lower()
    if not is_own:
        raise falcon.HTTPForbidden(
            title="cross_origin", description="Pages of other sites may change nothing here. Use an API key."
        )
