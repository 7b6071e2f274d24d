"""verify and certificate: proof that every key is there, and that an old main key is not needed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import KeyrepackError
from workers.cli.certificate_text import print_certificate, print_loss
from workers.cli.output import AsJson, amount, console, say, table, to_json, wishes
from workers.cli.session import opened

if TYPE_CHECKING:
    from workers.integrity.verify import Report
    from workers.services import Services
    from workers.store.environments import Environment


class NoCertificate(KeyrepackError):
    """The move of a repack has not closed: its old main key is still needed."""

    code = "no_certificate"


def verify(
    environment: Annotated[
        str | None, typer.Argument(metavar="[ENV]", help="One environment; all if left out.")
    ] = None,
    invariants: Annotated[
        bool, typer.Option("--invariants", help="Judge what must hold of keys, repacks, audit and outbox as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Open every key and check that it is the one it was born as. Changes nothing.

    Exit status 1 if any key does not open, or any invariant does not hold. Stale keys open all the same; the next deep
    repack moves them.
    """
    from workers.store.environments import find_environment, list_environments

    with opened() as services:
        with services.database.read() as connection:
            chosen = [find_environment(connection, environment)] if environment else list_environments(connection)
        if invariants:
            _judge(services, chosen)
            return
        reports = [_verify(services, one) for one in chosen]
    is_whole = not any(report.broken for report in reports)
    rows = [
        (one.environment, *(amount(count) for count in (one.data_keys, one.wrapping_keys, one.broken, one.stale)))
        for one in reports
    ]
    columns = ["environment", "data keys ", "wrapping keys ", "broken ", "stale "]
    say(
        {"ok": is_whole, "environments": [asdict(report) for report in reports]},
        lambda out: out.print(table(columns, rows)),
    )
    if not is_whole:
        _name_broken(reports)
        raise typer.Exit(1)


def _judge(services: Services, environments: list[Environment]) -> None:
    """Check every invariant; print its result, and what breaks it."""
    from workers.integrity.invariants import check_invariants

    verdicts = check_invariants(services, environments)
    is_whole = all(verdict.held for verdict in verdicts)
    rows = [(one.invariant, "held" if one.held else "BROKEN", one.sentence) for one in verdicts]
    say(
        {"ok": is_whole, "invariants": [asdict(verdict) for verdict in verdicts]},
        lambda out: out.print(table(["invariant", "verdict", "what must hold"], rows)),
    )
    breaches = [(one.invariant, breach) for one in verdicts for breach in one.breaches]
    if breaches and not wishes.json:
        console().print()
        console().print(table(["invariant", "what breaks it"], breaches))
    if not is_whole:
        raise typer.Exit(1)


def _verify(services: Services, environment: Environment) -> Report:
    from workers.integrity.verify import verify_environment

    out = console(error=True)
    if not out.is_terminal or wishes.json:
        return verify_environment(services, environment)
    with out.status(f"opening the keys of {environment}") as status:

        def tell(count: int) -> None:
            status.update(f"opening the keys of {environment}: {amount(count)}")

        return verify_environment(services, environment, on_progress=tell)


def _name_broken(reports: list[Report]) -> None:
    if wishes.json:
        return
    rows = [(report.environment, one["key"], one["reason"]) for report in reports for one in report.named]
    console().print()
    console().print(table(["environment", "broken key", "reason"], rows))
    console().print("\nRestore their rows from a backup.")


def certificate(
    repack: Annotated[
        str | None, typer.Argument(metavar="[REPACK]", help="A repack's id; or an environment, for its newest repack.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="ENV", help="Of loss: of an environment whose main key is deleted.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --loss: name every key that is lost in it, one a line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the certificate that a repack's old main key is not needed any more, and from which date that holds.

    It is there as soon as the move has closed; a deep repack goes on renewing meanwhile. It holds once backups that
    may have wraps of the old main key are gone (KEYREPACK_BACKUP_RETENTION).
    """
    if (repack is None) == (loss is None) or (names is not None and loss is None):
        raise typer.BadParameter("name a repack, or an environment with --loss; --names goes with --loss")
    if loss is not None:
        _certify_loss(loss, names)
    elif repack is not None:
        _certify_repack(repack)


def _certify_loss(reference: str, names: Path | None) -> None:
    from workers.main_keys.inventory import certificate_of_loss
    from workers.store.environments import find_environment
    from workers.store.queries.inventory import LostKey

    with opened() as services, services.database.snapshot() as connection, ExitStack() as stack:
        environment = find_environment(connection, reference)
        file = stack.enter_context(names.open("w")) if names is not None else None

        def name(key: LostKey) -> None:
            if file is not None:
                document = {"key": key.key_id, "kind": key.kind, "level": key.level, "version": key.version}
                file.write(to_json(document) + "\n")

        document = certificate_of_loss(connection, environment, name=name)
    say(document, lambda out: print_loss(out, document))


def _certify_repack(reference: str) -> None:
    from workers.store.repacks import find_any_repack

    with opened() as services, services.database.read() as connection:
        found = find_any_repack(connection, reference)
    document = found.certificate
    if document is None:
        raise NoCertificate(
            f"Repack {found.repack_id} has no certificate.",
            f"It is {found.state.value}, and its move has not closed: the old main key is still needed.",
            f"Follow it with `keyrepack repack watch {found.repack_id}`.",
        )
    say(document, lambda out: print_certificate(out, document))
