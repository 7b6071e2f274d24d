"""top: everything at a glance, live in a terminal; a line now and then where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.output import AsJson, console, say, table, wishes
from workers.cli.session import opened
from workers.monitoring.formats import amount, duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from workers.monitoring.overview import Overview

LINE_SECONDS = 10.0
"""Between two lines at least, where there is no terminal: a log is read later, not watched."""


def top(
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """See everything at a glance, live: what is wrong, queues, workers, repacks, the clock. Ctrl-C ends it.

    Without a terminal a line is written now and then. --json looks once.
    """
    from workers.broker.queue_depths import broker_of
    from workers.monitoring.overview_reader import OverviewReader

    with opened() as services:
        settings = services.settings
        broker = broker_of(settings.broker_url.get_secret_value())
        reader = OverviewReader(services.database, broker, settings, budgets=services.budgets_left)
        out = console()
        try:
            if once or wishes.json:
                overview = reader.read()
                say(_document(overview), lambda shown: shown.print(_drawn(overview)))
            elif out.is_terminal:
                _live(out, reader.read, every)
            else:
                for overview in _looks(reader.read, max(every, LINE_SECONDS)):
                    out.print(plain_line(overview))
        except KeyboardInterrupt:
            pass
        finally:
            reader.close()


def _live(out: Console, look: Callable[[], Overview], every: float) -> None:
    from rich.live import Live

    with Live(console=out, screen=True, auto_refresh=False) as live:
        for overview in _looks(look, every, tell=lambda text: live.update(text, refresh=True)):
            live.update(_drawn(overview), refresh=True)


def _looks(
    look: Callable[[], Overview], every: float, *, tell: Callable[[str], None] | None = None
) -> Iterator[Overview]:
    """Yield one overview after the other. A database that is away is reported, and asked again."""
    from workers.errors import DatabaseFailed

    while True:
        try:
            yield look()
        except DatabaseFailed as error:
            (tell or console(error=True).print)(f"{error}")
        time.sleep(every)


def plain_line(overview: Overview) -> str:
    """Format all of it in a line of text."""
    from workers.monitoring.formats import moment
    from workers.monitoring.status import judge

    verdict = judge(overview, rejected=0)
    depths = " ".join(f"{_short(queue.name)} {_known(queue.depth)}" for queue in overview.queues)
    running = sum(overview.repacks.values())
    parts = [
        moment(overview.now),
        verdict.level.value,
        *(reason.text for reason in verdict.reasons),
        f"{running} repacks, {amount(overview.remaining)} keys left, {amount(overview.rate or 0)} keys/s",
        f"queues: {depths}",
    ]
    return "  ".join(parts)


def _drawn(overview: Overview) -> Any:
    from rich.console import Group

    from workers.monitoring.formats import moment
    from workers.monitoring.status import judge

    status = judge(overview, rejected=0)
    lines = [f"{moment(overview.now)}   {status.text}", *(f"  {reason.text}" for reason in status.reasons), ""]
    locks = [f"locked: {lock.environment}, {lock.cause}, since {moment(lock.since)}" for lock in overview.locks]
    total = f"{amount(overview.rate or 0)} keys/s, {amount(overview.remaining)} keys left"
    parts = [_text(lines), _queues(overview), "", _workers(overview), "", _clock(overview), "", _text([total])]
    return Group(*parts, *([_runs(overview)] if overview.runs else []), *([_text(locks)] if locks else []))


def _queues(overview: Overview) -> Any:
    columns = ("queue", "waits ", "taken ", "oldest ", "served by ", "in/s ", "out/s ", "canary ")
    rows = [
        (
            _short(queue.name), _known(queue.depth), _known(queue.unacknowledged), _age(queue.oldest_seconds),
            _known(queue.consumers), _rate(queue.rate_in), _rate(queue.rate_out), _age(queue.canary_seconds),
        )
        for queue in overview.queues
    ]  # fmt: skip
    return table(columns, rows)


def _workers(overview: Overview) -> Any:
    columns = ("worker", "pid ", "serves", "up ", "progress ", "lease ", "version", "")
    rows = [
        (
            worker.seen.name, worker.seen.pid, " ".join(map(_short, worker.seen.queues)),
            duration(overview.now - worker.seen.started_at), _since(worker.seen.progressed_at, overview.now),
            worker.seen.lease or "", worker.seen.version, "silent" if worker.is_silent else "",
        )
        for worker in overview.workers
    ]  # fmt: skip
    return table(columns, rows)


def _runs(overview: Overview) -> Any:
    columns = ("repack", "state", "stage", "done ", "keys/s ", "left ", "held up by")
    rows = [
        (
            run.environment, run.state.value, f"{run.stage.value} {run.level}",
            f"{amount(run.seen)} of {amount(run.expected)}", _rate(run.rate), duration(run.seconds_left),
            f"{run.block_side}: {run.block_cause}" if run.block_cause else "",
        )
        for run in overview.runs
    ]  # fmt: skip
    return table(columns, rows)


def _clock(overview: Overview) -> Any:
    columns = ("job", "last ", "drift ", "late ")
    rows = [
        (one.job, _since(one.last_at, overview.now), _age(one.drift_seconds), _age(one.overdue_seconds))
        for one in overview.schedules
    ]
    return table(columns, rows)


def _text(lines: list[str]) -> Any:
    from rich.text import Text

    return Text("\n".join(lines))


def _short(queue: str) -> str:
    return queue.removeprefix("keyrepack.")


def _known(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _age(seconds: float | None) -> str:
    from workers.monitoring.formats import duration

    return "" if seconds is None else duration(seconds)


def _since(at: float | None, now: float) -> str:
    from workers.monitoring.formats import duration

    return "never" if at is None else duration(max(0.0, now - at))


def _document(overview: Overview) -> dict[str, Any]:
    """JSON values; counters are for `keyrepack metrics`."""
    from workers.monitoring.status import judge

    document = asdict(overview) | {"remaining": overview.remaining, "verdict": asdict(judge(overview, rejected=0))}
    document.pop("counts")
    return document
