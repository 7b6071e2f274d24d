"""migrate and doctor: is everything there that keyrepack needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from workers.cli.output import AsJson, console, facts, moment, say, table
from workers.cli.session import opened

if TYPE_CHECKING:
    from workers.cli.doctor_checks import CheckResult


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to this program's schema. Safe to repeat."""
    from workers.store.schema import migrate as apply

    with opened(ready=False) as services:
        before, after = apply(services.database)
    document = {"before": before, "after": after, "changed": before != after}
    text = "The database is up to date" if before == after else "The database was brought up to date"
    say(document, lambda out: out.print(f"{text}: schema {after}."))


def doctor(
    environment: Annotated[
        str | None, typer.Argument(metavar="[ENV]", help="Only this environment's main keys; all if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check settings, database, broker, managed key and every main key; say what to do about each fault.

    Where AWS denied, it prints the very IAM statement that is missing. Main keys are listed as they were last seen.

    Changes nothing. Exit status 1 if anything is wrong.
    """
    from workers.cli.doctor_checks import examine

    checkup = examine(environment)
    findings = checkup.findings
    rows = [("ok" if finding.ok else "FAULT", finding.check, finding.detail) for finding in findings]
    document = {"ok": all(finding.ok for finding in findings), "findings": [one.as_json() for one in findings]}
    document["main_keys"] = [asdict(view) | {"roots": sum(view.roots.values())} for view in checkup.main_keys]

    def text(out: Console) -> None:
        out.print(table(["", "checked", "found"], rows))
        if checkup.main_keys:
            seen = [(one.uri, one.health, one.cause or "", moment(one.last_seen)) for one in checkup.main_keys]
            out.print()
            out.print(table(["main key", "as last seen", "cause", "its KMS answered"], seen))

    say(document, text)
    if not document["ok"]:
        faults = [(finding.check, finding.remedy) for finding in findings if not finding.ok]
        say_remedies = facts((f"{check}:", remedy) for check, remedy in faults)
        if not as_json:
            console().print("\nWhat to do:")
            console().print(say_remedies)
            _print_statements(findings)
        raise typer.Exit(1)


def _print_statements(findings: list[CheckResult]) -> None:
    for finding in findings:
        if finding.statement is not None:
            console().print(f"\nThis statement is missing for the {finding.check}:")
            console().print(json.dumps(finding.statement, indent=2), markup=False)
