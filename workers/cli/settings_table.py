"""settings: every variable, what it may be, and its default."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from workers.cli.output import AsJson, say, table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table."""

    variable: str
    default: str  # empty: there is none
    allowed: str
    meaning: str


def settings(
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the table that deploy/docs/settings.md holds.")
    ] = False,
) -> None:
    """List every setting: its variable, its default, what it may be, what it means. Shows no value that is set."""
    rows = list_settings()
    if markdown:
        typer.echo(as_markdown(rows), nl=False)
        return
    cells = [(row.variable, row.default, row.allowed, row.meaning) for row in rows]
    say([asdict(row) for row in rows], lambda out: out.print(table(["variable", "default", "allowed", "means"], cells)))


def list_settings() -> list[Setting]:
    """List every setting, in the order in which they are declared."""
    from workers.runtime.settings import Settings

    return [
        Setting(
            variable=f"KEYREPACK_{name.upper()}",
            default=_default(field),
            allowed=_allowed(field),
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def as_markdown(rows: list[Setting]) -> str:
    """Format the page of deploy/."""
    lines = [
        "# Settings",
        "",
        "Written by `keyrepack settings --markdown`; a test holds it to the code. Each is an environment variable, or",
        "a file of that name in the folder that `KEYREPACK_SECRETS_DIR` names: the place for passwords.",
        "",
        "| variable | default | allowed | meaning |",
        "|---|---|---|---|",
    ]
    for row in rows:
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.variable}` | {default} | {_cell(row.allowed)} | {_cell(row.meaning)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default()
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    bounds = [
        f"{BOUNDS[name]} {getattr(rule, name):,g}" for rule in field.metadata for name in BOUNDS if hasattr(rule, name)
    ]
    return ", ".join([kind, *bounds])


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    names = {
        "SecretStr": "text",
        "str": "text",
        "Path": "path",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
    }
    return names[kinds[0].__name__]
