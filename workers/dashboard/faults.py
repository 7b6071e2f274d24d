"""Faults of our own: logged by type and place, answered without either, and never with what they say (R10)."""

from __future__ import annotations

import traceback

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import KeyrepackError
from workers.dashboard.refusals import UNEXPECTED, as_json, status_of
from workers.dashboard.routes import API
from workers.dashboard.views.rendering import render
from workers.runtime.logs import log


class Unexpected(KeyrepackError):
    """A fault of the program."""

    code = UNEXPECTED

    def __init__(self) -> None:
        super().__init__("The dashboard failed.", "It is a fault of the program.", "Look at its log; try again.")


class FaultHandler:
    """Answers for an exception that no other handler took."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:  # noqa: BLE001 - the last one who can answer
            last = traceback.extract_tb(error.__traceback__)[-1]
            # Its text may hold what was in a row: where it was raised says enough.
            log.error("dashboard.failed", error=type(error).__name__, place=f"{last.filename}:{last.lineno}")
            if scope["type"] == "http" and not has_begun:
                await _answer(Request(scope))(scope, receive, send)


def _answer(request: Request) -> Response:
    failure = Unexpected()
    status = status_of(failure)
    if request.url.path.startswith((API, "/events")):
        return JSONResponse(as_json(failure), status)
    return HTMLResponse(render("closed.html", error=failure, status=status), status)
