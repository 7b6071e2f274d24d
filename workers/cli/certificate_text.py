"""Formats certificates for a terminal: that a main key is not needed any more, and that keys are lost."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape

from workers.cli.output import amount, facts, indented, moment, table


def print_certificate(console: Console, certificate: dict[str, Any], *, indent: int = 0) -> None:
    """Print what is not needed any more, since when, and what that rests on."""
    left, to, audit = certificate["from"], certificate["to"], certificate["audit"]
    holds_from = certificate.get("holds_from", certificate["closed_at"])
    census = f"{amount(certificate['roots'])}, all under the new one; census sha256:{certificate['census'][:16]}…"
    lines = [
        ("from", f"{left['main_key']}{_generation(left)}"),
        ("to", f"{to['main_key']}{_generation(to)}"),
        ("closed", f"{moment(certificate['closed_at'])}, asked for by {certificate['actor']}"),
        (
            "holds from",
            f"{moment(holds_from)}: until then backups hold wraps of it" if holds_from > time.time() else "",
        ),
        ("roots", f"{census}; audit record {audit['seq']}, {audit['hash'][:16]}…"),
    ]
    place = escape(f"{certificate['workspace']}/{certificate['name']}")
    console.print(indented(f"[bold]{place}[/]  {certificate['mode']} repack {certificate['repack']}", indent))
    color = "yellow" if holds_from > time.time() else "green"
    console.print(indented(f"[{color}]{escape(certificate['statement'])}[/]", indent + 2))
    console.print(indented(facts(lines), indent + 2))


def print_loss(console: Console, certificate: dict[str, Any]) -> None:
    """Print what is lost for ever, since when, and what that rests on."""
    audit = certificate["audit"]
    rows = [
        (kind, level, amount(count))
        for kind, levels in certificate["by_kind_and_level"].items()
        for level, count in levels.items()
    ]
    lines = [
        ("environment id", certificate["environment"]),
        ("lost since", moment(certificate["lost_since"])),
        ("because", certificate["detail"]),
        *(("main key", f"{end['main_key']}{_generation(end)}") for end in certificate["main_keys"]),
        ("lost", f"{amount(certificate['keys'])} keys and versions; census sha256:{certificate['census'][:16]}…"),
        ("audit", f"record {audit['seq']}, {audit['hash'][:16]}…"),
    ]
    console.print(f"[bold]{escape(certificate['workspace'])}/{escape(certificate['name'])}[/]")
    console.print(f"[red]{escape(certificate['statement'])}[/]", soft_wrap=True)
    console.print(facts(lines))
    console.print()
    console.print(table(["keys", "level ", "count "], rows))


def _generation(end: dict[str, Any]) -> str:
    return f", generation {str(end['generation'])[:8]}" if end.get("generation") else ""
