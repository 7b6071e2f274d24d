"""The JSON API: the same views and acts as the pages, behind the same roles; and `POST /events`."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from schemas.errors import EventRejected, KeyrepackError
from schemas.events import MAX_EVENT_BYTES
from workers.dashboard.api import post_events
from workers.dashboard.auth.guard import admit, read_body, require_own_page, require_token
from workers.dashboard.auth.signing_in import MAX_FORM_BYTES
from workers.dashboard.auth.users import Role
from workers.dashboard.refusals import Malformed, TooLarge, TooManyAttempts, WrongKind, as_json, status_of
from workers.dashboard.routes import Act, Ask, View
from workers.dashboard.site import Site
from workers.dashboard.views.pages import carry_out, checked
from workers.errors import DatabaseAway
from workers.store.idempotency_keys import claim_answer, drop_answer, keep_answer

IDEMPOTENCY = "idempotency-key"
MAX_KEY = 255
PASSING = frozenset({401, 403, 409, 413, 415, 429, 500, 503})
"""Answers that are not kept under an idempotency key: the same request may be answered otherwise a little later."""

Work = Callable[[], tuple[int, dict[str, Any]]]


class KeyReused(KeyrepackError):
    """An idempotency key came with another request before."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("Nothing was done.", "This Idempotency-Key came with another request.", "Use a new key.")


class StillDoing(KeyrepackError):
    """The same request is being answered right now."""

    code = "still_being_done"

    def __init__(self) -> None:
        super().__init__("Nothing was done.", "The same request is being done.", "Wait, then send it again.")


def answer(error: KeyrepackError) -> JSONResponse:
    """Answer with what went wrong, and its status."""
    status = 409 if isinstance(error, StillDoing) else status_of(error)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, TooManyAttempts):
        headers["retry-after"] = str(int(error.wait) + 1)
    return JSONResponse(as_json(error), status, headers=headers)


def view_of(site: Site, view: View) -> Callable[[Request], Any]:
    """Make the endpoint of a view's document."""

    async def endpoint(request: Request) -> Response:
        try:
            visitor = admit(site, request, view.role)
            form = checked(view.query, request.query_params)
            ask = Ask(site=site, visitor=visitor, path=request.path_params, form=form)
            return JSONResponse(jsonable(await run_in_threadpool(view.read, ask)))
        except KeyrepackError as error:
            return answer(error)

    return endpoint


def act_of(site: Site, act: Act) -> Callable[[Request], Any]:
    """Make the endpoint of an act."""

    async def endpoint(request: Request) -> Response:
        try:
            require_own_page(request)
            visitor = admit(site, request, Role.VIEWER)
            require_token(request, visitor, None)
            visitor = admit(site, request, act.role)
            body = await read_body(request, MAX_FORM_BYTES)
            ask = Ask(
                site=site, visitor=visitor, path=request.path_params, form=checked(act.form, _fields(request, body))
            )
            scope = f"{visitor.actor} {request.url.path}"
            status, document = await run_in_threadpool(
                once, site, scope, request, body, lambda: (200, jsonable(carry_out(act, ask)))
            )
            return JSONResponse(document, status)
        except KeyrepackError as error:
            return answer(error)

    return endpoint


def events_of(site: Site) -> Callable[[Request], Any]:
    """Make the endpoint of events. A sender who signs needs no session."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await read_body(request, MAX_EVENT_BYTES)
            headers = {name.lower(): value for name, value in request.headers.items()}

            status, document = await run_in_threadpool(_take_event, site, request, body, headers)
            return JSONResponse(document, status)
        except TooLarge:
            return answer(EventRejected("too_large", f"It is longer than {MAX_EVENT_BYTES} bytes."))
        except KeyrepackError as error:
            return answer(error)

    return endpoint


def _take_event(site: Site, request: Request, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Keys are a source's own: who cannot sign learns nothing of another's answers."""
    incoming = post_events.judge(site, body, headers)
    scope = f"events {incoming.event.source}"
    return once(site, scope, request, incoming.body, lambda: post_events.take(site, incoming, headers))


def once(site: Site, scope: str, request: Request, body: bytes, work: Work) -> tuple[int, dict[str, Any]]:
    """Do it, or answer as the same request under the same Idempotency-Key was answered. Raises what `work` does."""
    key = request.headers.get(IDEMPOTENCY)
    if key is None:
        return work()
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise Malformed(
            "Nothing was done.", f"An Idempotency-Key has 1 to {MAX_KEY} printable characters.", "Shorten it."
        )
    database, own = site.services.database, hashlib.sha256(scope.encode()).hexdigest()
    digest = hashlib.sha256(body).digest()
    with database.write() as connection:
        before = claim_answer(connection, own, key, digest)
    if before is not None:
        if before.digest != digest:
            raise KeyReused
        if before.status is None or before.document is None:
            raise StillDoing
        return before.status, before.document
    try:
        status, document = work()
    except KeyrepackError as error:
        with contextlib.suppress(DatabaseAway), database.write() as connection:
            if status_of(error) in PASSING:
                drop_answer(connection, own, key)
            else:
                keep_answer(connection, own, key, status=status_of(error), document=as_json(error))
        raise
    except BaseException:
        with contextlib.suppress(DatabaseAway), database.write() as connection:
            drop_answer(connection, own, key)
        raise
    with database.write() as connection:
        keep_answer(connection, own, key, status=status, document=document)
    return status, document


def jsonable(document: dict[str, Any]) -> dict[str, Any]:
    """JSON values: ids as text, whatever a read model holds."""
    found: dict[str, Any] = json.loads(json.dumps(document, default=str))
    return found


def _fields(request: Request, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise WrongKind("application/json")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("The request was not understood.", "Its body is not JSON.", "Send JSON.") from error
    if not isinstance(found, dict):
        raise Malformed("The request was not understood.", "Its body is not an object.", "Send an object.")
    return found
