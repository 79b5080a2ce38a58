"""/console/sign-in and /console/sign-out."""

from urllib.parse import urlencode, urlsplit

import falcon
from falcon.asgi import Request, Response

from jobs_service.api.access.guard import CONSOLE, Guard
from jobs_service.api.access.origins import check_origin
from jobs_service.api.access.sessions import COOKIE, VALID_SECONDS
from jobs_service.api.console.pages import Console, Page, page

#: What the page says first, by the code of the problem that led to it.
_REASONS = {
    "invalid_key": "Your key was revoked.",
    "key_expired": "Your key has expired.",
}


class _Signing(Page):
    def __init__(self, console: Console, guard: Guard) -> None:
        super().__init__(console)
        self.guard = guard


class SignIn(_Signing):
    """/console/sign-in."""

    @page(scope=None)
    async def on_get(self, req: Request, resp: Response) -> None:
        wanted = req.get_param("next") or ""
        if await self._is_signed_in(req):
            self.done(req, resp, _path_in_console(wanted))
        elif req.get_param("from") == "elsewhere":
            # A link of another site led here, without the cookie. This page's own link brings it, if there is one.
            forward = f"{req.root_path}{CONSOLE}/sign-in?{urlencode({'next': wanted})}"
            self.show(req, resp, "forward.html", title="Opening", forward=forward)
        else:
            self._show(req, resp, _REASONS.get(req.get_param("why") or "", ""), wanted)

    async def _is_signed_in(self, req: Request) -> bool:
        keyring = await self.guard.known_keys.current()
        try:
            return self.guard.is_open(keyring) or bool(await self.guard.session_key(req, keyring))
        except falcon.HTTPUnauthorized:
            return False

    @page(scope=None)
    async def on_post(self, req: Request, resp: Response) -> None:
        check_origin(req, is_from_a_browser=True)
        form = await self.form(req)
        try:
            # Whoever was given a key just now may use it.
            await self.guard.known_keys.refresher.finished()
            key = self.guard.valid_key(await self.guard.known_keys.current(), form.get("key", "").strip())
        except falcon.HTTPUnauthorized as error:
            resp.status = falcon.HTTP_UNAUTHORIZED
            self._show(req, resp, error.description or "", form.get("next", ""))
            return
        self._set_cookie(req, resp, await self.guard.sessions.begin(key))
        self.done(req, resp, _path_in_console(form.get("next", "")))

    @staticmethod
    def _set_cookie(req: Request, resp: Response, token: str) -> None:
        resp.set_cookie(
            COOKIE,
            token,
            max_age=VALID_SECONDS,
            path=f"{req.root_path}{CONSOLE}",
            secure=req.forwarded_scheme == "https",
            http_only=True,
            same_site="Strict",
        )

    def _show(self, req: Request, resp: Response, why: str, wanted: str) -> None:
        self.show(req, resp, "sign_in.html", title="Sign in", why=why, next=wanted)


class SignOut(_Signing):
    """/console/sign-out."""

    @page(scope=None)
    async def on_post(self, req: Request, resp: Response) -> None:
        check_origin(req, is_from_a_browser=True)
        for token in req.get_cookie_values(COOKIE) or []:
            await self.guard.sessions.end(token)
        resp.unset_cookie(COOKIE, same_site="Strict", path=f"{req.root_path}{CONSOLE}")
        self.done(req, resp, "/sign-in", "signed-out")


def _path_in_console(wanted: str) -> str:
    """Return the path below the console's, "" for any other address: nobody is sent elsewhere."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return ""
    path = parts.path.removeprefix(CONSOLE)
    if parts.scheme or parts.netloc or not parts.path.startswith(f"{CONSOLE}/") or path.startswith("/sign-"):
        return ""
    # What is no part of an address, such as the end of a line, does not get into the header: `done` writes it in %.
    return f"{path}?{parts.query}" if parts.query else path
