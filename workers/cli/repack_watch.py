"""repack watch: to its end, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import KeyrepackError
from workers.cli.error_output import NOT_FINISHED
from workers.cli.output import AsJson, Command, amount, console, duration, say, wishes
from workers.cli.repack_show import RepackReference
from workers.cli.session import opened

if TYPE_CHECKING:
    from workers.monitoring.repack_report import RepackView
    from workers.services import Services
    from workers.store.repacks import Repack

LOOK_SECONDS = 0.25


def watch(
    repack: RepackReference,
    patience: Annotated[float | None, typer.Option(min=0, help="Give up after this many seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a repack to its end: a bar a stage and level, with rate and time left.

    Exit status: 0 it has finished, 1 it ended otherwise (quarantine, aborted, stopped), 3 it has not ended yet when
    Ctrl-C or --patience came.
    """
    from workers.store.repacks import find_any_repack

    with opened() as services:
        with services.database.read() as connection:
            found = find_any_repack(connection, repack)
        view, has_ended = _watch(services, found, patience)
    say(view.as_json(), lambda out: out.print(_last_line(view)))
    if not has_ended:
        raise typer.Exit(NOT_FINISHED)
    if view.repack.state != "finished":
        raise typer.Exit(1)


def _watch(services: Services, repack: Repack, patience: float | None) -> tuple[RepackView, bool]:
    """Look until it ends, or until Ctrl-C or patience."""
    from workers.cli.progress_bars import Bars
    from workers.monitoring.progress import outline
    from workers.store.environments import count_keys

    with services.database.read() as connection:
        ahead = outline(repack.mode, count_keys(connection, repack.environment))
    begun, view = time.monotonic(), _look(services, repack, ahead)
    out, said = console(error=wishes.json), ""
    try:
        with Bars(out) as bars:
            while True:
                if (block := _held_up(view)) != said:
                    said = block
                    bars.say(said)
                bars.show(view.stages, last=not view.repack.is_open)
                if not view.repack.is_open or (patience is not None and time.monotonic() - begun >= patience):
                    break
                time.sleep(LOOK_SECONDS)
                view = _look(services, repack, ahead)
    except KeyboardInterrupt:
        pass
    return view, not view.repack.is_open


def _look(services: Services, repack: Repack, ahead: Any) -> RepackView:
    from workers.errors import DatabaseFailed
    from workers.monitoring.repack_report import view_repack
    from workers.store.repacks import get_repack

    for attempt in range(5):
        try:
            with services.database.read() as connection:
                return view_repack(connection, get_repack(connection, repack.id), ahead=ahead)
        except DatabaseFailed:
            if attempt == 4:
                raise
            time.sleep(1)
    raise KeyrepackError("The repack could not be read.")


_SIDES = {"source": "source main key", "target": "target main key"}


def _held_up(view: RepackView) -> str:
    if view.block is not None:
        side = _SIDES.get(view.block["side"], view.block["side"])
        return f"[bold red]blocked:[/] {side}: {view.block['cause']}. {view.block['remedy']}"
    return "[yellow]paused[/]" if view.repack.state == "paused" else ""


def _last_line(view: RepackView) -> str:
    from workers.monitoring.repack_report import MEANING

    text = f"[bold]{view.repack.state}[/]  {MEANING[view.repack.state]}"
    if not view.repack.is_open:
        text += f"\n{amount(view.total('rewrapped'))} keys in {duration(view.seconds)}."
    return text


COMMANDS: dict[str, Command] = {"watch": watch}
