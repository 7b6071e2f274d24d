"""reconcile: what to run first after a database came back from a backup."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workers.cli.error_output import FAILED, NOT_FINISHED
from workers.cli.output import AsJson, amount, facts, say, table, to_json
from workers.cli.session import actor, opened

if TYPE_CHECKING:
    from workers.integrity.assessment import Survey, Unopened
    from workers.integrity.journal import Journal
    from workers.integrity.reconcile import Done, Outcome
    from workers.services import Services
    from workers.store.environments import Environment

NAMED = 100
"""How many keys that do not open are shown at most; --names has them all."""


def reconcile(
    environment: Annotated[
        str | None, typer.Argument(metavar="[ENV]", help="One environment; all if left out.")
    ] = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="What was kept elsewhere: of `audit export`, certificates, published events. May be given again.",
        ),
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Name every key that does not open in it, one a line.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """After a restore: find what is gone or older than a witness says, mend what can be mended, name the rest.

    Run it before the workers start. Without a witness the database is measured by its own audit and by the KMS alone.
    Safe to repeat, until it says that all is in order.

    Exit status 0 in order; 3 a repack is under way, or would be; 1 keys do not open, or a step failed.
    """
    from workers.store.environments import find_environment, list_environments

    with opened(wakes=not dry_run) as services, ExitStack() as stack:
        called, lineage = _call(services, witness or [])
        with services.database.read() as connection:
            chosen = [find_environment(connection, environment)] if environment else list_environments(connection)
        file = None if names is None else stack.enter_context(names.open("w"))
        reports = [_Report(one) for one in chosen]
        for report in reports:
            report.look(services, called, file)
            if not dry_run:
                report.mend(services, called)
    document = {"lineage": lineage, "environments": [report.as_json() for report in reports]}
    say(document, lambda out: _print(out, lineage, reports))
    _exit({report.outcome.value for report in reports})


def _exit(outcomes: set[str]) -> None:
    if "named" in outcomes:
        raise typer.Exit(FAILED)
    if outcomes & {"under_way", "unknown"}:
        raise typer.Exit(NOT_FINISHED)


class _Report:
    """One environment's way through a reconciliation."""

    outcome: Outcome
    survey: Survey

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.done: list[Done] = []
        self.unopened: list[dict[str, Any]] = []

    def look(self, services: Services, witness: Journal, file: Any) -> None:
        from workers.integrity.assessment import survey
        from workers.integrity.reconcile import outcome_of

        def name(key: Unopened) -> None:
            document = {
                "environment": str(self._environment.environment_id),
                "key": str(key.key_id),
                "kind": key.kind.value,
                "level": key.level,
                "version": key.version,
                "reason": key.reason,
            }
            if len(self.unopened) < NAMED:
                self.unopened.append(document)
            if file is not None:
                file.write(to_json(document) + "\n")

        told = witness.of(self._environment.environment_id)
        self.survey = survey(services, self._environment, told, name=name)
        self.outcome = outcome_of(self.survey, [])

    def mend(self, services: Services, witness: Journal) -> None:
        from workers.integrity.reconcile import mend, outcome_of

        self.done = mend(services, self.survey, witness, actor=actor())
        self.outcome = outcome_of(self.survey, self.done)

    def as_json(self) -> dict[str, Any]:
        found = self.survey
        return {
            "environment": str(self._environment),
            "environment_id": str(self._environment.environment_id),
            "outcome": self.outcome.value,
            "main_key": found.in_force,
            "main_keys": [
                {
                    "main_key": top.main_key,
                    "top_version": top.version,
                    "state": top.state.value,
                    "roots": top.roots,
                    "refused": cause.value if (cause := found.looks[top.version]) else None,
                }
                for top in found.tops
            ],
            "missed": [str(move.repack_id) for move in found.missed],
            "steps": [{"need": step.need.value, "why": step.why, "main_key": step.main_key} for step in found.steps],
            "done": [{"need": one.step.need.value, "text": one.text, "failed": bool(one.error)} for one in self.done],
            "notes": found.notes,
            "unopened": dict(found.unopened),
            "named": self.unopened,
        }


def _call(services: Services, files: list[Path]) -> tuple[Journal, str]:
    """Read the journal, and say how the database's own audit stands to it."""
    from workers.integrity.journal import lineage, read_journal
    from workers.store.audit import records

    with services.database.snapshot() as connection:
        called = read_journal(records(connection), files)
        return called, lineage(records(connection), called)


def _print(out: Console, lineage: str, reports: list[_Report]) -> None:
    out.print(lineage)
    out.print()
    rows = [
        (report.survey.environment, report.outcome.replace("_", " "), amount(report.survey.unopened.total()), text)
        for report in reports
        for text in _said(report) or [""]
    ]
    out.print(table(["environment", "is", "do not open ", "what, and why"], rows))
    notes = [(f"{report.survey.environment}:", note) for report in reports for note in report.survey.notes]
    if notes:
        out.print(facts(notes))
    named = [(one["key"], one["kind"], one["level"], one["reason"]) for report in reports for one in report.unopened]
    if named:
        out.print()
        out.print(table(["key that does not open", "kind", "level ", "reason"], named))
        out.print("\nRestore a newer backup, or have their main key given back; then reconcile again.")


def _said(report: _Report) -> list[str]:
    if report.done:
        said = ((one.step.need, one.step.why, one.text) for one in report.done)
        return [f"{need}: {why}" + (f" {text}" if text != why else "") for need, why, text in said]
    return [f"{step.need}: {step.why}" for step in report.survey.steps]
