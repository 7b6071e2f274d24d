"""Pages: a view's document through its template, and an act's form, answered by the page it leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from schemas.errors import KeyrepackError
from workers.dashboard.acts import NEEDS_WORKERS, require_broker
from workers.dashboard.auth.guard import CSRF_FIELD, admit, read_body, require_own_page, require_token
from workers.dashboard.auth.signing_in import MAX_FORM_BYTES, read_form
from workers.dashboard.auth.users import Role
from workers.dashboard.live.overview_cache import OverviewSnapshot
from workers.dashboard.refusals import Malformed, MustChoose, SignInNeeded, status_of
from workers.dashboard.routes import Act, Ask, View
from workers.dashboard.site import Site, Visitor
from workers.dashboard.views.rendering import render, render_block
from workers.errors import DatabaseAway
from workers.runtime.logs import log

Endpoint = Callable[[Request], Any]

PARTS = frozenset({"actions"})
"""Blocks that a page's script asks for again, by the id of the element that they are."""


def page_of(site: Site, view: View) -> Endpoint:
    """Make the endpoint of a view's page."""

    async def endpoint(request: Request) -> Response:
        visitor: Visitor | None = None
        try:
            visitor = admit(site, request, view.role)
            ask = Ask(
                site=site, visitor=visitor, path=request.path_params, form=checked(view.query, request.query_params)
            )
            html = await run_in_threadpool(_render_view, view, ask, request)
        except KeyrepackError as error:
            return await answer_error(site, request, visitor, error, section=view.is_in)
        return HTMLResponse(html)

    return endpoint


def act_of(site: Site, act: Act) -> Endpoint:
    """Make the endpoint of an act's form."""

    async def endpoint(request: Request) -> Response:
        visitor: Visitor | None = None
        try:
            require_own_page(request)
            visitor = admit(site, request, Role.VIEWER)
            fields = read_form(await read_body(request, MAX_FORM_BYTES))
            require_token(request, visitor, fields.get(CSRF_FIELD))
            visitor = admit(site, request, act.role)
            ask = Ask(site=site, visitor=visitor, path=request.path_params, form=checked(act.form, fields))
            document = await run_in_threadpool(carry_out, act, ask)
        except KeyrepackError as error:
            return await answer_error(site, request, visitor, error, section="")
        if visitor.session is not None:
            visitor.session.flash = act.said(document)
        return RedirectResponse(quote(act.back(ask, document), safe="/?=&%-"), 303)

    return endpoint


def carry_out(act: Act, ask: Ask) -> dict[str, Any]:
    """Do it, and say so in the log; what is said in the audit is the act's own. Raises whatever it refuses."""
    if act.name in NEEDS_WORKERS:
        require_broker(ask)
    document = act.run(ask)
    log.info("dashboard.acted", act=act.name, actor=ask.visitor.actor)
    return document


def checked(model: type[BaseModel], fields: Mapping[str, Any]) -> Any:
    """Check a query or a form by its model; empty fields count as left out. Raises Malformed."""
    try:
        return model.model_validate({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        raise Malformed.of(error) from None


def shared(
    site: Site, visitor: Visitor, *, section: str, title: str, path: str, is_whole: bool = True
) -> dict[str, Any]:
    """Return what every page needs besides its document. A part of one does not say what the next page is to say."""
    session = visitor.session
    flash = ""
    if session is not None and is_whole:
        flash, session.flash = session.flash, ""
    return {
        "visitor": visitor, "csrf": session.csrf if session else "", "section": section, "title": title, "path": path,
        "flash": flash, "seen": seen_or_none(site), "Role": Role,
    }  # fmt: skip


def seen_or_none(site: Site) -> OverviewSnapshot | None:
    """Return the newest overview; None while the database is away."""
    try:
        return site.overview_cache.latest()
    except DatabaseAway:
        return None


def _render_view(view: View, ask: Ask, request: Request) -> str:
    part = request.headers.get("hx-target", "")
    is_whole, path = part not in PARTS, request.url.path
    values = shared(ask.site, ask.visitor, section=view.is_in, title=view.title, path=path, is_whole=is_whole)
    document = ask.site.page_reads.fetch(f"{path}?{ask.form!r}", lambda: view.read(ask))
    if not is_whole:
        return render_block(view.template, part, {"document": document, **values})
    live = f"/live{path}" + (f"?{request.url.query}" if request.url.query else "") if view.live else ""
    following = _following(request, document)
    return render(view.template, document=document, live=live, following=following, **values)


def _following(request: Request, document: Mapping[str, Any]) -> str:
    """Return the address of the next page of a list; empty if there is none."""
    if document.get("next") is None:
        return ""
    name = "before" if isinstance(document["next"], int) else "after"
    query = {key: value for key, value in request.query_params.items() if key not in ("before", "after")}
    return f"{request.url.path}?{urlencode(query | {name: document['next']})}"


async def answer_error(
    site: Site, request: Request, visitor: Visitor | None, error: KeyrepackError, *, section: str
) -> Response:
    """Answer with a page that says what, why and what to do; or redirect to the sign-in."""
    if isinstance(error, SignInNeeded):
        onward = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse("/sign-in?" + urlencode({"next": onward} if request.method == "GET" else {}), 303)
    if isinstance(error, MustChoose):
        return RedirectResponse("/account", 303)
    values = {}
    if visitor is not None:
        values = await run_in_threadpool(shared, site, visitor, section=section, title=error.what, path="")
    template = "error.html" if visitor is not None else "closed.html"
    return HTMLResponse(render(template, error=error, status=status_of(error), **values), status_of(error))
