"""Authenticates a request and checks that its sender meant it: sessions, tokens, roles, forged requests."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from workers.dashboard.auth.users import Role
from workers.dashboard.refusals import ForgedRequest, MustChoose, NotAllowed, SignInNeeded, TooLarge
from workers.dashboard.site import Site, Visitor
from workers.errors import NotConfigured

CSRF_FIELD, CSRF_HEADER = "csrf", "x-csrf-token"
SCHEME = "bearer "


def cookie_name(*, is_secure: bool) -> str:
    """`__Host-`: a browser takes it over TLS alone, for this host and no other."""
    return "__Host-keyrepack" if is_secure else "keyrepack"


def visitor_of(site: Site, request: Request, *, touch: bool = True) -> Visitor | None:
    """Return who asks; None for a stranger. A role is what the users file says now, not at sign-in."""
    authorization = request.headers.get("authorization", "")
    if authorization.lower().startswith(SCHEME):
        return _program(site, authorization[len(SCHEME) :].strip())
    session = site.sessions.find(request.cookies.get(cookie_name(is_secure=site.is_secure), ""), touch=touch)
    if session is None:
        return None
    if session.role is not None:
        return Visitor(name=session.user, role=session.role, session=session)
    user = site.users.find(session.user)
    return Visitor(name=user.name, role=user.role, session=session) if user is not None else None


def _program(site: Site, token: str) -> Visitor | None:
    try:
        user = site.users.by_token(token)
    except NotConfigured:  # signed in by a provider alone: there is no users file
        return None
    return Visitor(name=user.name, role=user.role, session=None) if user is not None else None


def admit(site: Site, request: Request, needed: Role, *, touch: bool = True, by_one_time: bool = False) -> Visitor:
    """Raise SignInNeeded, MustChoose or NotAllowed if the visitor may not."""
    visitor = visitor_of(site, request, touch=touch)
    if visitor is None:
        raise SignInNeeded
    if visitor.session is not None and visitor.session.must_choose and not by_one_time:
        raise MustChoose
    if not visitor.role.may(needed):
        raise NotAllowed(visitor.role, needed)
    return visitor


def require_own_page(request: Request) -> None:
    """Raise ForgedRequest for a request that a browser says another site has caused."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise ForgedRequest("The request came from another site.")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise ForgedRequest("The request came from another origin.")


def require_token(request: Request, visitor: Visitor, field: str | None) -> None:
    """Raise ForgedRequest unless the session's own token came with it. A program's token is proof enough by itself."""
    if visitor.session is None:
        return
    token = request.headers.get(CSRF_HEADER) or field or ""
    if not visitor.session.is_token(token):
        raise ForgedRequest("The form is not one of this session, or the session is another one by now.")


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body. Raises TooLarge as soon as it is too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(limit)
    return bytes(body)
