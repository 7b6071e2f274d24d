"""The web application: the table's rows as routes, the sign-in, the streams, the API, static files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from schemas.errors import KeyrepackError
from workers.dashboard.api import api, openapi
from workers.dashboard.auth.guard import visitor_of
from workers.dashboard.auth.signing_in import CALLBACK, HOME, SigningIn
from workers.dashboard.faults import FaultHandler
from workers.dashboard.headers import SecurityHeaders
from workers.dashboard.live.streams import stream_of
from workers.dashboard.refusals import SignInNeeded
from workers.dashboard.routes import API
from workers.dashboard.site import Site
from workers.dashboard.table import ACTS, VIEWS
from workers.dashboard.views.pages import act_of, answer_error, page_of
from workers.dashboard.views.rendering import STATIC, render

OPENAPI = f"{API}/openapi.json"
FOR_EVER = "public, max-age=31536000, immutable"
"""Static files are asked for by what is in them: see `asset`."""


Endpoint = Callable[[Request], Awaitable[Response]]


class _Files(StaticFiles):
    """Static files that browsers keep."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """See StaticFiles."""
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["cache-control"] = FOR_EVER if scope.get("query_string") else "no-cache"
        return response


def make_application(site: Site) -> Starlette:
    """Make the application over a site. It begins to read when it starts, and closes nothing of the site's."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        site.overview_cache.start()
        reader = asyncio.create_task(site.live.run())
        try:
            yield
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    return Starlette(
        routes=_routes(site),
        middleware=[Middleware(SecurityHeaders, is_secure=site.is_secure), Middleware(FaultHandler)],
        exception_handlers={HTTPException: _not_there(site)},
        lifespan=lifespan,
    )


def _routes(site: Site) -> list[Route | Mount]:
    door = SigningIn(site)
    return [
        Route("/", lambda _: RedirectResponse(HOME, 303)),
        Route("/sign-in", door.form),
        Route("/sign-in", door.sign_in, methods=["POST"]),
        Route("/sign-in/provider", door.to_provider),
        Route(CALLBACK, door.from_provider),
        Route("/sign-out", door.sign_out, methods=["POST"]),
        Route("/account", _guarded(site, door.account)),
        Route("/account", _guarded(site, door.choose_password), methods=["POST"]),
        Route("/events", api.events_of(site), methods=["POST"]),
        Route(OPENAPI, _openapi),
        *(Route(view.path, page_of(site, view)) for view in VIEWS),
        *(Route(act.path, act_of(site, act), methods=["POST"]) for act in ACTS),
        *(Route(f"/live{view.path}", stream_of(site, view)) for view in VIEWS if view.live),
        *(Route(API + view.path, api.view_of(site, view)) for view in VIEWS),
        *(Route(API + act.path, api.act_of(site, act), methods=["POST"]) for act in ACTS),
        Mount("/static", _Files(directory=STATIC)),
    ]


async def _openapi(_request: Request) -> Response:
    return JSONResponse(openapi.document())


def _guarded(site: Site, endpoint: Endpoint) -> Endpoint:
    """Whatever an endpoint refuses, as a page."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except KeyrepackError as error:
            return await answer_error(site, request, None, error, section="account")

    return guarded


def _not_there(site: Site) -> Any:
    """Answer for an address or a method that is not in the table. A stranger does not learn which are."""

    async def answer(request: Request, error: HTTPException) -> Response:
        what = {404: "There is no such page.", 405: "That cannot be done here."}.get(
            error.status_code, "Not understood."
        )
        failure = KeyrepackError(what, "", "Go back to where you were.")
        failure.code = {404: "not_found", 405: "not_allowed_here"}.get(error.status_code, "malformed_request")
        if request.url.path.startswith((API, "/events", "/static")):
            document = {"error": {"code": failure.code, "what": what, "why": "", "remedy": failure.remedy}}
            return JSONResponse(document, error.status_code, headers=error.headers)
        visitor = visitor_of(site, request, touch=False)
        if visitor is None and request.method == "GET":
            return await answer_error(site, request, None, SignInNeeded(), section="")
        return HTMLResponse(render("closed.html", error=failure, status=error.status_code), error.status_code)

    return answer
