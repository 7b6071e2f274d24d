"""migrate and doctor: is everything there that keyrepack needs."""

from __future__ import annotations

import typer

from workers.cli.output import AsJson, console, facts, say, table
from workers.cli.session import opened


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to this program's schema. Safe to repeat."""
    from workers.store.schema import migrate as apply

    with opened(ready=False) as services:
        before, after = apply(services.database)
    document = {"before": before, "after": after, "changed": before != after}
    text = "The database is up to date" if before == after else "The database was brought up to date"
    say(document, lambda out: out.print(f"{text}: schema {after}."))


def doctor(as_json: AsJson = False) -> None:
    """Check settings, database, broker, managed key and every main key; say what to do about each fault.

    Changes nothing. Exit status 1 if anything is wrong.
    """
    from workers.cli.checkup import examine

    findings = examine()
    rows = [("ok" if finding.ok else "FAULT", finding.check, finding.detail) for finding in findings]
    document = {"ok": all(finding.ok for finding in findings), "findings": [one.as_json() for one in findings]}
    say(document, lambda out: out.print(table(["", "checked", "found"], rows)))
    if not document["ok"]:
        faults = [(finding.check, finding.remedy) for finding in findings if not finding.ok]
        say_remedies = facts((f"{check}:", remedy) for check, remedy in faults)
        if not as_json:
            console().print("\nWhat to do:")
            console().print(say_remedies)
        raise typer.Exit(1)
