"""The OpenAPI document, made from the table: what is not in it is not there."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.events import CONTENT_TYPE, Event
from schemas.signatures import HEADERS
from workers.dashboard.routes import API, Act, NoQuery, View
from workers.dashboard.table import ACTS, VIEWS

_NAMES = re.compile(r"\{(\w+)\}")

PATHS = {
    "environment": {"type": "string", "format": "uuid", "description": "The environment's id."},
    "repack": {"type": "string", "format": "uuid", "description": "The repack's id."},
    "letter": {"type": "string", "pattern": "^[0-9]{1,18}$", "description": "The rejected event's number."},
}

REFUSED = {
    400: "Not understood.", 401: "Nobody is signed in.", 403: "The role is not enough.", 404: "There is no such thing.",
    409: "The state of things does not allow it.", 413: "Too large.", 415: "A body of another kind.",
    422: "Understood, and wrong.", 429: "Too many tries.", 503: "Something it needs is away; try again.",
}  # fmt: skip

REF = "#/components/schemas/{model}"

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "what", "why", "remedy"],
            "properties": {name: {"type": "string"} for name in ("code", "what", "why", "remedy")},
        }
    },
}


@cache
def document() -> dict[str, Any]:
    """Build the whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for view in VIEWS:
        paths.setdefault(API + view.path, {})["get"] = _view(view)
    for act in ACTS:
        paths.setdefault(API + act.path, {})["post"] = _act(act)
    paths["/events"] = {"post": _events()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "keyrepack",
            "version": version("keyrepack"),
            "description": "What the dashboard shows and does. Times are seconds since the epoch.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR} | _schemas(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`keyrepack user add NAME --token`."},
                "session": {"type": "apiKey", "in": "cookie", "name": "keyrepack"},
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def _view(view: View) -> dict[str, Any]:
    return {
        "operationId": f"see_{_word(view.name)}",
        "summary": view.title,
        "description": f"{(view.read.__doc__ or '').strip()} Needs the role {view.role.value}.",
        "parameters": [*_path_parameters(view.path), *_query_parameters(view.query)],
        "responses": _responses(view.read.__doc__ or "", {200}),
    }


def _act(act: Act) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"do_{_word(act.name)}",
        "summary": act.title,
        "description": f"Needs the role {act.role.value}.",
        "parameters": [*_path_parameters(act.path), IDEMPOTENCY_KEY],
        "responses": _responses("What came of it.", {200}),
    }
    if act.form is not NoQuery:
        operation["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": _ref(act.form)}},
        }  # fmt: skip
    return operation


def _events() -> dict[str, Any]:
    """Structured mode's body; binary mode's headers are in the text."""
    return {
        "operationId": "take_event",
        "summary": "Say that something happened to a main key",
        "description": "A CloudEvent, signed by the Standard Webhooks' scheme with a key of its source. In binary mode "
        "(`ce-` headers, the body is `data`) the signature is over the event as canonical JSON.",
        "security": [],
        "parameters": [IDEMPOTENCY_KEY, *(_header(name) for name in HEADERS)],
        "requestBody": {"required": True, "content": {CONTENT_TYPE: {"schema": _ref(Event)}}},
        "responses": _responses("It is in the inbox.", {200, 202}),
    }


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "The same request under the same key is done once, and answered the same.",
}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string", "pattern": "^[!-~]+$"}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": PATHS[name]} for name in _NAMES.findall(path)]


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = _schemas()[model.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", []),
            "schema": _without_null(value),
            "description": value.get("description", ""),
        }
        for name, value in schema.get("properties", {}).items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from a query's types: a parameter can be left out, not null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "description", "title", "default")}
    return rest | kinds[0] if kinds else rest


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


@cache
def _schemas() -> dict[str, Any]:
    """Return the schemas of every form and query, and of what they refer to, by name."""
    models = {Event, *(act.form for act in ACTS), *(view.query for view in VIEWS)}
    wanted = [(model, "validation") for model in sorted(models, key=lambda model: str(model))]
    _, found = models_json_schema(wanted, ref_template=REF)  # type: ignore[arg-type]
    named: dict[str, Any] = found["$defs"]
    return named


def _responses(text: str, good: set[int]) -> dict[str, Any]:
    found = {
        str(status): {"description": text.strip(), "content": {"application/json": {"schema": {"type": "object"}}}}
        for status in sorted(good)
    }
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return found | {str(status): {"description": why, "content": error} for status, why in REFUSED.items()}


def _word(name: str) -> str:
    return name.replace("-", "_")
