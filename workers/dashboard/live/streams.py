"""Server-sent events: what changes on an open page, as one reader sees it for all browsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from schemas.errors import KeyrepackError
from workers.dashboard.auth.guard import admit, visitor_of
from workers.dashboard.live.live import StreamClient
from workers.dashboard.routes import Ask, View
from workers.dashboard.site import Site, Visitor
from workers.dashboard.views.pages import answer_error, checked, seen_or_none
from workers.dashboard.views.rendering import render, render_regions
from workers.errors import Transient

READER = "live"
"""Who the reader is: no user's session, and no role's."""


class TooManyStreams(Transient):
    """More open pages than one browser or all of them may have."""

    code = "too_many_streams"

    def __init__(self) -> None:
        super().__init__("The page does not follow what happens.", "Too many are open.", "Close some; load it again.")


def stream_of(site: Site, view: View) -> Callable[[Request], Any]:
    """Make the endpoint that a view's open pages listen to."""

    async def endpoint(request: Request) -> Response:
        visitor: Visitor | None = None
        try:
            visitor = admit(site, request, view.role, touch=False)
            form = checked(view.query, request.query_params)
            session = visitor.session.key if visitor.session else visitor.name
            if site.live.is_full(session):
                raise TooManyStreams
        except KeyrepackError as error:
            return await answer_error(site, request, visitor, error, section=view.is_in)
        watcher = StreamClient(session=session, lives=lambda: _may_still(site, request, view))
        reader = Visitor(name=READER, role=view.role, session=None)
        ask = Ask(site=site, visitor=reader, path=dict(request.path_params), form=form)
        topic = f"{request.url.path}?{form!r}"
        body = site.live.follow(topic, lambda: read_regions(site, view, ask), watcher)
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)

    return endpoint


def _may_still(site: Site, request: Request, view: View) -> bool:
    """Return True if the browser may still listen: a session that ended, or a role that was taken, ends the stream."""
    try:
        visitor = visitor_of(site, request, touch=False)
    except KeyrepackError:
        return False
    return visitor is not None and visitor.role.may(view.role)


def read_regions(site: Site, view: View, ask: Ask) -> dict[str, str]:
    """Read what a page shows now, region by region; if it cannot be read, say so."""
    try:
        document = view.read(ask)
    except Transient as error:
        return {"live_trouble": render("trouble.html", seen=None, error=error)}
    values = {"document": document, "seen": seen_or_none(site), "section": view.is_in, "error": None}
    return render_regions(view.template, values)
