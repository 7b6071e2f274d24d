"""repack pause, resume, abort, stop, retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.output import AsJson, Command, note, say
from workers.cli.repack_show import RepackReference
from workers.cli.session import actor, broker_answers, opened

if TYPE_CHECKING:
    from workers.store.repacks import Repack

Reason = Annotated[str, typer.Option(help="Why; kept in the audit.")]


def pause(repack: RepackReference, reason: Reason = "", as_json: AsJson = False) -> None:
    """Pause a repack: workers stop within a batch, and everything stays readable."""
    _steer("pause", repack, reason)


def resume(repack: RepackReference, reason: Reason = "", as_json: AsJson = False) -> None:
    """Go on with a paused or blocked repack, from its checkpoints."""
    _steer("resume", repack, reason)


def abort(repack: RepackReference, reason: Reason = "", as_json: AsJson = False) -> None:
    """Put the old main key in force again, exactly; until the move has closed. Works with the new key gone."""
    _steer("abort", repack, reason)


def stop(repack: RepackReference, reason: Reason = "", as_json: AsJson = False) -> None:
    """End a renewal where it stands: nothing is lost, the next deep repack picks it up."""
    _steer("stop", repack, reason)


def retry(repack: RepackReference, reason: Reason = "", as_json: AsJson = False) -> None:
    """Try quarantined keys again, once their rows or their main key were repaired."""
    _steer("retry", repack, reason)


def _steer(action: str, reference: str, reason: str) -> None:
    from workers.monitoring.repack_report import MEANING, repack_json
    from workers.repack import control
    from workers.store.environments import get_environment
    from workers.store.repacks import find_any_repack

    act: Callable[..., Repack] = getattr(control, action)
    with opened(wakes=True) as services:
        with services.database.read() as connection:
            found = find_any_repack(connection, reference)
            environment = str(get_environment(connection, found.environment))
        changed = act(services, found, actor=actor(), reason=reason)
        if changed.is_running and not broker_answers(services.settings):
            note("The broker does not answer: workers go on as soon as beat's sweeper comes around.")
    text = f"[bold]{changed.state}[/]  {MEANING[changed.state]}"
    say(repack_json(changed, environment) | {"was": found.state.value}, lambda out: out.print(text))


COMMANDS: dict[str, Command] = {"pause": pause, "resume": resume, "abort": abort, "stop": stop, "retry": retry}
