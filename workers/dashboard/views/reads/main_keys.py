"""Main keys: how each is, what it is in use for, and what is wrapped under older generations of it."""

from __future__ import annotations

import time

from pydantic import Field

from workers.dashboard.routes import Ask, Document, NoQuery
from workers.main_keys.inventory import MainKeyHealth, MainKeyView

PAGE = 50
NAMED = 5
"""Environments of a main key that are named on the page; the API has all of them."""


class MainKeyFilter(NoQuery):
    """Which main keys."""

    text: str = Field(default="", max_length=512, description="Part of its URI, or of an environment's name.")
    health: str = Field(
        default="", pattern=f"^({'|'.join(MainKeyHealth)})?$", description=f"How it is: {', '.join(MainKeyHealth)}."
    )
    after: str = Field(default="", max_length=512, description="Only those after this URI.")


def main_keys(ask: Ask) -> Document:
    """List main keys in use, by URI."""
    query, settings = ask.form, ask.site.services.settings
    views = [view for view in ask.site.inventory.wait(None) if view.uri > query.after and _is_meant(view, query)]
    page = views[:PAGE]
    return {
        "now": time.time(),
        "main_keys": [_json(view, settings.hidden_generation_days) for view in page],
        "next": page[-1].uri if len(views) > PAGE else None,
        "text": query.text,
        "health": query.health,
        "poll_interval": settings.poll_interval,
        "cache_ttl": settings.cache_ttl,
    }


def _is_meant(view: MainKeyView, query: MainKeyFilter) -> bool:
    text = query.text.lower()
    named = text in view.uri.lower() or any(text in user.name.lower() for user in view.environments)
    return named and (not query.health or view.health == query.health)


def _json(view: MainKeyView, days: float) -> Document:
    document = view.as_json(days)
    for user in document["environments"]:
        user["environment_id"] = str(user["environment_id"])
    if document["oldest_stale"] is not None:
        document["oldest_stale"]["key_id"] = str(document["oldest_stale"]["key_id"])
    return document
