"""managed-key create, rotate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import KeyrepackError
from workers.cli.output import AsJson, Command, say
from workers.cli.session import read_settings

File = Annotated[Path | None, typer.Option(help="The file; KEYREPACK_MANAGED_KEY_FILE if not given.")]


def create(file: File = None, as_json: AsJson = False) -> None:
    """Make the file of the platform's own main key, readable by you alone. An existing one is never overwritten."""
    from workers.kms.managed import create_managed_key_file

    path = _path(file)
    try:
        generation = create_managed_key_file(path)
    except FileExistsError:
        raise _exists(path) from None
    _say(path, generation, f"The managed key is in {path}. Keep a copy where a lost disk does not reach it.")


def rotate(file: File = None, as_json: AsJson = False) -> None:
    """Add a generation to the platform's own main key; the older ones still open what they wrapped.

    Then publish `main_key.rotated` for its environments, or run `keyrepack main-key replace ENV managed:`.
    """
    from workers.kms.managed import rotate_managed_key_file

    path = _path(file)
    generation = rotate_managed_key_file(path)
    _say(path, generation, f"The managed key in {path} wraps by generation {generation} from now on.")


def _path(file: Path | None) -> Path:
    from workers.errors import NotConfigured

    path = file or read_settings().managed_key_file
    if path is None:
        raise NotConfigured("Which file?", "No file is set.", "Set KEYREPACK_MANAGED_KEY_FILE, or give --file.")
    return path


def _exists(path: Path) -> KeyrepackError:
    error = KeyrepackError(
        "The managed key was not created.",
        f"{path} exists: environments may hang from it.",
        "Use it as it is, or add a generation with `keyrepack managed-key rotate`.",
    )
    error.code = "managed_key_exists"
    return error


def _say(path: Path, generation: str, text: str) -> None:
    say({"file": str(path), "generation": generation}, lambda out: out.print(text))


COMMANDS: dict[str, Command] = {"create": create, "rotate": rotate}
