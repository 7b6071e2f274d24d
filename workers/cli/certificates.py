"""How a certificate reads in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.padding import Padding

from workers.cli.output import amount, facts, moment


def print_certificate(console: Console, certificate: dict[str, Any], *, indent: int = 0) -> None:
    """What the old main key is not needed for any more, and who says so."""
    left, to = certificate["from"], certificate["to"]
    lines = [
        ("environment", f"{certificate['workspace']}/{certificate['name']} ({certificate['environment']})"),
        ("repack", f"{certificate['repack']}, {certificate['mode']}, asked for by {certificate['actor']}"),
        ("from", f"{left['main_key']}{_generation(left)}"),
        ("to", f"{to['main_key']}{_generation(to)}"),
        ("closed", moment(certificate["closed_at"])),
        ("roots", f"{amount(certificate['roots'])}, census sha256:{certificate['census'][:16]}…"),
        ("audit", f"record {certificate['audit']['seq']}, {certificate['audit']['hash'][:16]}…"),
    ]
    console.print(Padding(certificate["statement"], (0, 0, 0, indent)), style="green")
    console.print(Padding(facts(lines), (0, 0, 1, indent + 2)))


def _generation(end: dict[str, Any]) -> str:
    return f", generation {str(end['generation'])[:12]}…" if end.get("generation") else ""
