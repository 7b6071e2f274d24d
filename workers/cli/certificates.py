"""How a certificate reads in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from workers.cli.output import amount, facts, indented, moment


def print_certificate(console: Console, certificate: dict[str, Any], *, indent: int = 0) -> None:
    """What is not needed any more, since when, and what that rests on."""
    left, to, audit = certificate["from"], certificate["to"], certificate["audit"]
    census = f"{amount(certificate['roots'])}, all under the new one; census sha256:{certificate['census'][:16]}…"
    lines = [
        ("from", f"{left['main_key']}{_generation(left)}"),
        ("to", f"{to['main_key']}{_generation(to)}"),
        ("closed", f"{moment(certificate['closed_at'])}, asked for by {certificate['actor']}"),
        ("roots", f"{census}; audit record {audit['seq']}, {audit['hash'][:16]}…"),
    ]
    place = escape(f"{certificate['workspace']}/{certificate['name']}")
    console.print(indented(f"[bold]{place}[/]  {certificate['mode']} repack {certificate['repack']}", indent))
    console.print(indented(f"[green]{escape(certificate['statement'])}[/]", indent + 2))
    console.print(indented(facts(lines), indent + 2))


def _generation(end: dict[str, Any]) -> str:
    return f", generation {str(end['generation'])[:8]}" if end.get("generation") else ""
