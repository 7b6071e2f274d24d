"""Sign in, out, by the provider, and choose a password."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from schemas.errors import KeyrepackError
from workers.dashboard.auth import passwords
from workers.dashboard.auth.guard import CSRF_FIELD, admit, cookie_name, read_body, require_own_page, require_token
from workers.dashboard.auth.users import Role, User
from workers.dashboard.refusals import ForgedRequest, Malformed, TooManyAttempts, WrongPassword, status_of
from workers.dashboard.site import Site, Visitor
from workers.dashboard.views.rendering import render
from workers.errors import DatabaseAway
from workers.runtime.logs import log
from workers.store.audit import append_record

FORM_COOKIE = "keyrepack-form"
MAX_FORM_BYTES = 16 * 1024
HOME = "/overview"
CALLBACK = "/sign-in/provider/back"
PENDING_SECONDS = 600


def read_form(body: bytes) -> dict[str, str]:
    """Read a form's fields; of one that is there twice, the last. Raises Malformed."""
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=50, strict_parsing=bool(body))
    except ValueError as error:
        raise Malformed("The form was not understood.", "It is not one.", "Load the page again.") from error
    return {name: values[-1] for name, values in fields.items()}


def own_path(text: str | None) -> str:
    """Return where to go after signing in: a path of ours, or the first page."""
    if not text or not text.startswith("/") or text.startswith(("//", "/\\")) or urlsplit(text).netloc:
        return HOME
    return text if "\n" not in text and "\r" not in text else HOME


class SigningIn:
    """The pages to sign in and out."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def form(self, request: Request) -> Response:
        """Show the page to sign in."""
        return self._page(request, own_path(request.query_params.get("next")))

    async def sign_in(self, request: Request) -> Response:
        """Name and password."""
        site, fields = self._site, read_form(await read_body(request, MAX_FORM_BYTES))
        onward = own_path(fields.get("next"))
        try:
            require_own_page(request)
            self._require_form(request, fields.get(CSRF_FIELD, ""))
            user = await self._check(request, fields.get("name", ""), fields.get("password", ""))
        except KeyrepackError as error:
            return self._page(request, onward, error=error, name=fields.get("name", "")[:64])
        await run_in_threadpool(self._record, user.name, "password")
        identifier, _ = site.sessions.begin(user.name, must_choose=user.one_time)
        return self._welcome(identifier, "/account" if user.one_time else onward)

    async def sign_out(self, request: Request) -> Response:
        """End the session, and with it what the browser holds."""
        require_own_page(request)
        visitor = admit(self._site, request, Role.VIEWER, by_one_time=True)
        require_token(request, visitor, read_form(await read_body(request, MAX_FORM_BYTES)).get(CSRF_FIELD))
        if visitor.session is not None:
            self._site.sessions.end(visitor.session)
        response = RedirectResponse("/sign-in", 303)
        response.delete_cookie(cookie_name(is_secure=self._site.is_secure), secure=self._site.is_secure, httponly=True)
        return response

    async def account(self, request: Request) -> Response:
        """Show who is signed in, and the form for another password."""
        return self._account(admit(self._site, request, Role.VIEWER, by_one_time=True))

    async def choose_password(self, request: Request) -> Response:
        """Another password; every other session of the user ends."""
        site = self._site
        require_own_page(request)
        visitor = admit(site, request, Role.VIEWER, by_one_time=True)
        fields = read_form(await read_body(request, MAX_FORM_BYTES))
        require_token(request, visitor, fields.get(CSRF_FIELD))
        try:
            user = await self._check(request, visitor.name, fields.get("password", ""))
            chosen = _chosen(fields)
        except KeyrepackError as error:
            return self._account(visitor, error)
        await run_in_threadpool(site.users.choose_password, user.name, chosen)
        site.sessions.end_all_of(user.name)
        await run_in_threadpool(self._record, user.name, "password chosen")
        identifier, _ = site.sessions.begin(user.name)
        return self._welcome(identifier, HOME)

    async def to_provider(self, request: Request) -> Response:
        """Away to the provider; what comes back is known by a cookie of its own."""
        if self._site.provider is None:
            return RedirectResponse("/sign-in", 303)
        pending: dict[str, Any] = {}
        request.scope["session"] = pending
        try:
            response = await self._site.provider.send_away(request, CALLBACK)
        except KeyrepackError as error:
            return self._page(request, HOME, error=error)
        identifier = self._site.pending.keep(pending)
        # Lax: this one has to come along when the provider sends the browser back; it opens nothing.
        self._set(response, f"{FORM_COOKIE}-provider", identifier, max_age=PENDING_SECONDS, samesite="lax")
        return response

    async def from_provider(self, request: Request) -> Response:
        """Back from the provider."""
        if self._site.provider is None:
            return RedirectResponse("/sign-in", 303)
        request.scope["session"] = self._site.pending.take(request.cookies.get(f"{FORM_COOKIE}-provider", ""))
        try:
            name, role = await self._site.provider.who_came_back(request)
        except KeyrepackError as error:
            return self._page(request, HOME, error=error)
        await run_in_threadpool(self._record, name, "provider")
        identifier, _ = self._site.sessions.begin(name, role=role)
        # A page and no redirect: the browser came from elsewhere, and a redirect would not carry a Strict cookie.
        response = HTMLResponse(render("arrived.html", onward=HOME))
        self._set(response, cookie_name(is_secure=self._site.is_secure), identifier)
        response.delete_cookie(f"{FORM_COOKIE}-provider")
        return response

    async def _check(self, request: Request, name: str, password: str) -> User:
        """Find the user of a name and password. Raises TooManyAttempts, WrongPassword, NotConfigured."""
        site, address = self._site, request.client.host if request.client else ""
        if wait := site.attempts.wait(name, address):
            raise TooManyAttempts(wait)
        site.attempts.failed(name, address)  # counted before it is tried: a hundred at once are a hundred tries
        user = await run_in_threadpool(self._by_password, name, password)
        if user is None:
            log.warning("sign_in.refused", address=address)
            raise WrongPassword
        site.attempts.succeeded(name, address)
        return user

    def _by_password(self, name: str, password: str) -> User | None:
        with self._site.checking:  # each try takes 32 MiB: many at once wait in line
            return self._site.users.by_password(name, password)

    def _page(self, request: Request, onward: str, *, error: KeyrepackError | None = None, name: str = "") -> Response:
        nonce = secrets.token_urlsafe(16)
        html = render(
            "sign_in.html", csrf=self._form_token(nonce), onward=onward, error=error, name=name,
            has_provider=self._site.provider is not None, has_users=self._site.services.settings.users_file.exists(),
        )  # fmt: skip
        response = HTMLResponse(html, status_of(error) if error is not None else 200)
        self._set(response, FORM_COOKIE, nonce)
        return response

    def _account(self, visitor: Visitor, error: KeyrepackError | None = None) -> Response:
        session = visitor.session
        html = render(
            "account.html", visitor=visitor, csrf=session.csrf if session else "", error=error, section="account",
            title="Account", seen=None, flash="", must_choose=session is not None and session.must_choose,
            has_password=session is not None and session.role is None, shortest=passwords.SHORTEST, path="/account",
        )  # fmt: skip
        return HTMLResponse(html, status_of(error) if error is not None else 200)

    def _welcome(self, identifier: str, onward: str) -> Response:
        response = RedirectResponse(onward, 303)
        self._set(response, cookie_name(is_secure=self._site.is_secure), identifier)
        response.delete_cookie(FORM_COOKIE)
        return response

    def _set(
        self, response: Response, name: str, value: str, *, max_age: int | None = None, samesite: Any = "strict"
    ) -> None:
        response.set_cookie(
            name, value, max_age=max_age, path="/", secure=self._site.is_secure, httponly=True, samesite=samesite
        )

    def _form_token(self, nonce: str) -> str:
        """Make what a form of ours carries: no other site can make it for the cookie that was set with it."""
        return hmac.new(self._site.form_key, nonce.encode(), hashlib.sha256).hexdigest()

    def _require_form(self, request: Request, token: str) -> None:
        nonce = request.cookies.get(FORM_COOKIE, "")
        if not nonce or not hmac.compare_digest(self._form_token(nonce).encode(), token.encode()):
            raise ForgedRequest("The form is not one that this browser was given.")

    def _record(self, name: str, how: str) -> None:
        """Record in the audit who signed in. If the database is away nothing can be shown anyway."""
        with contextlib.suppress(DatabaseAway), self._site.services.database.write() as connection:
            append_record(connection, action="user.signed_in", actor=f"dashboard:{name}", facts={"how": how})


def _chosen(fields: dict[str, str]) -> str:
    chosen = fields.get("chosen", "")
    if not passwords.SHORTEST <= len(chosen) <= passwords.LONGEST:
        why = f"It has to have {passwords.SHORTEST} to {passwords.LONGEST} characters."
        raise Malformed("The password was not changed.", why, "Choose another one.")
    if chosen != fields.get("again", ""):
        raise Malformed("The password was not changed.", "The two are not the same.", "Type it twice.")
    if chosen == fields.get("password"):
        raise Malformed("The password was not changed.", "It is the one you have.", "Choose another one.")
    return chosen
