"""Pages from templates. Everything that is not a template's own text is escaped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workers.monitoring.formats import amount, duration, moment

HERE = Path(__file__).parents[1]
STATIC = HERE / "static"

REGION = "live_"
"""Blocks that begin like this are sent again to open pages when what is in them changes."""


def _made() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "amount": amount, "moment": moment, "duration": duration, "percent": _percent, "short": _short, "facts": _facts,
        "words": _words, "ago": _ago,
    }  # fmt: skip
    made.globals["asset"] = asset
    made.globals["ui"] = made.get_template("macros.html").module  # regions are rendered without the page around them
    return made


def render(template: str, **values: Any) -> str:
    """Render a whole page."""
    return ENVIRONMENT.get_template(template).render(values)


def render_block(template: str, name: str, values: Mapping[str, Any]) -> str:
    """Render one block of a page; empty if the page has none of that name."""
    page = ENVIRONMENT.get_template(template)
    block = page.blocks.get(name)
    return "".join(block(page.new_context(dict(values)))) if block is not None else ""


def render_regions(template: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Render the regions of a page that follow what happens, by name."""
    found: dict[str, str] = {}
    for page in (ENVIRONMENT.get_template("base.html"), ENVIRONMENT.get_template(template)):
        context = page.new_context(dict(values))
        found |= {name: "".join(block(context)) for name, block in page.blocks.items() if name.startswith(REGION)}
    return found


@cache
def asset(name: str) -> str:
    """Return the address of a static file, with what changes when it does: browsers keep the rest."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}"


def _short(text: str | None, length: int = 8) -> str:
    """Shorten a long name to its beginning."""
    if text is None:
        return "hidden"
    return text if len(text) <= length + 4 else f"{text[:length]}…"


def _facts(facts: Mapping[str, Any]) -> str:
    """Format an audit record's facts on a line."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in sorted(facts.items())
        if value not in (None, "")
    )


def _words(code: str) -> str:
    """Format a word such as "finished with quarantine"."""
    return code.replace("_", " ")


def _ago(at: float | None, now: float) -> str:
    """Format an age such as "42 s ago"."""
    return f"{duration(max(now - at, 0.0))} ago" if at is not None else "never"


ENVIRONMENT = _made()
