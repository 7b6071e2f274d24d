"""main-key list: every main key in use, how it is, and what is wrapped under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from workers.cli.output import AsJson, Command, amount, facts, moment, say, table
from workers.cli.session import opened

if TYPE_CHECKING:
    from workers.main_keys.inventory import MainKeyView

NAMED = 3
"""Environments of a main key that are named in a terminal; --json has all of them."""

COLUMNS = ["main key", "state", "environments", "in use", "seen", "last seen", "roots ", "stale "]


def list_all(as_json: AsJson = False) -> None:
    """List the main keys in use: environments, state, generations, roots, and the oldest root that is stale.

    The state is what the last look found; `keyrepack doctor` looks now.
    """
    from workers.main_keys.inventory import list_main_keys

    with opened() as services:
        views = list_main_keys(services)
        days = services.settings.hidden_generation_days
    empty = "No main key is in use. Create an environment with `keyrepack environment create WORKSPACE/NAME`."
    say(
        {"main_keys": [view.as_json(days) for view in views]},
        lambda out: print_main_keys(out, views, days) if views else out.print(empty),
    )


def print_main_keys(out: Console, views: Sequence[MainKeyView], days: float) -> None:
    """Print one row per main key; below it what needs attention."""
    out.print(table(COLUMNS, [_row(view) for view in views]))
    for view in views:
        if notes := list(_notes(view, days)):
            out.print(f"\n[bold]{view.uri}[/]")
            out.print(facts(notes))


def _row(view: MainKeyView) -> list[str]:
    users = [f"{user.name}{' (leaving it)' if user.draining else ''}" for user in view.environments]
    named = ", ".join(users[:NAMED]) + (f" and {len(users) - NAMED} more" if len(users) > NAMED else "")
    in_use = ", ".join(_generation(generation) for generation in view.generations_in_use)
    seen = "hidden" if view.hides_generation else _generation(view.generation_seen) if view.last_seen else ""
    roots = sum(view.roots.values())
    return [view.uri, view.health, named, in_use, seen, moment(view.last_seen), amount(roots), amount(view.stale_roots)]


def _notes(view: MainKeyView, days: float) -> list[tuple[str, object]]:
    locks = ", ".join(f"{user.name} ({user.lock_cause})" for user in view.environments if user.lock_cause)
    by = "; ".join(f"{_generation(generation)}: {amount(count)}" for generation, count in view.roots.items())
    notes: list[tuple[str, object]] = [
        ("since", moment(view.since) if view.cause else ""),
        ("cause", " ".join(filter(None, [view.cause, view.detail]))),
        ("locked", locks),
        ("roots by generation", by if len(view.roots) > 1 else ""),
    ]
    if view.oldest_stale is not None:
        stale = view.oldest_stale
        notes.append(("oldest stale root", f"{stale.key_id} of {stale.environment}, from {moment(stale.since)}"))
    if view.hides_generation:
        notes.append(("generation", f"hidden by its KMS: its roots are rewrapped on a timer, every {days:g} days"))
    return [(name, value) for name, value in notes if value]


def _generation(generation: str | None) -> str:
    """Long ones by their beginning: it distinguishes them."""
    if generation is None:
        return "hidden"
    return generation if len(generation) <= 12 else f"{generation[:8]}…"


COMMANDS: dict[str, Command] = {"list": list_all}
