"""Prints a command's answer: text for people or one JSON document for programs, on standard output and nothing else
there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from workers.monitoring.formats import amount as amount
from workers.monitoring.formats import duration as duration
from workers.monitoring.formats import moment as moment

Command = Callable[..., Any]
"""The function of a command, as typer takes it."""

PLAIN_WIDTH = 500
"""Columns where no terminal says its own: in a pipe or a log a row is a line, however long."""


@dataclass(slots=True)
class Wishes:
    """What was asked of this run of the program, apart from the command itself."""

    json: bool = False
    debug: bool = False


wishes = Wishes()


AsJson = Annotated[bool, typer.Option("--json", help="Say it as one JSON document on standard output.")]
"""Read off `wishes` by `say`: usage errors come before the option is parsed, and are JSON as well."""


class _Trimmed:
    """A file without blanks at the ends of lines: tables fill theirs up."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(re.sub(r"[ \t]+(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def console(*, error: bool = False) -> Console:
    """Return standard output, or standard error; as wide as the terminal."""
    file = sys.stderr if error else sys.stdout
    if file.isatty():
        return Console(file=file, highlight=False)
    return Console(file=cast(TextIO, _Trimmed(file)), highlight=False, width=PLAIN_WIDTH, soft_wrap=True)


def say(document: Any, text: Callable[[Console], None]) -> None:
    """Print the answer of a command, in the form that was asked for."""
    if wishes.json:
        sys.stdout.write(to_json(document) + "\n")
        sys.stdout.flush()
    else:
        text(console())


def note(text: str) -> None:
    """Print something that a person should know; on standard error, so that a document stays whole."""
    console(error=True).print(escape(text))


def to_json(document: Any) -> str:
    """Format one line of JSON; ids as text."""
    return json.dumps(document, default=str, ensure_ascii=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Build a plain table; columns whose name ends in a space stand on the right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column.strip(), justify="right" if column.endswith(" ") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(str(cell)) for cell in row))
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values, one pair a line; what is empty is left out."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, ""):
            made.add_row(name, escape(str(value)))
    return made


def indented(content: RenderableType, columns: int) -> Padding:
    """Indent what is printed, without making it longer."""
    return Padding(content, (0, 0, 0, columns), expand=False)
