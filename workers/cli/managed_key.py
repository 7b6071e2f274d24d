"""managed-key create, rotate, list."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import KeyrepackError
from workers.cli.output import AsJson, Command, amount, say, table
from workers.cli.session import opened, read_settings

if TYPE_CHECKING:
    from workers.main_keys.inventory import ManagedGeneration

File = Annotated[Path | None, typer.Option(help="The file; KEYREPACK_MANAGED_KEY_FILE if not given.")]


def create(file: File = None, as_json: AsJson = False) -> None:
    """Make the file of the platform's own main key, readable by you alone. An existing one is never overwritten."""
    from workers.kms.local.managed import create_managed_key_file

    path = _path(file)
    try:
        generation = create_managed_key_file(path)
    except FileExistsError:
        raise _exists(path) from None
    _say(path, generation, f"The managed key is in {path}. Keep a copy where a lost disk does not reach it.")


def rotate(file: File = None, as_json: AsJson = False) -> None:
    """Add a generation to the platform's own main key; the older ones still open what they wrapped.

    Its environments and the uploaded keys follow by themselves; `keyrepack managed-key list` says what is left.
    """
    from workers.kms.local.managed import rotate_managed_key_file

    path = _path(file)
    generation = rotate_managed_key_file(path)
    _say(path, generation, f"The managed key in {path} wraps by generation {generation} from now on.")


def list_all(file: File = None, as_json: AsJson = False) -> None:
    """List the generations of the platform's own main key, and what still hangs from each.

    A line may leave the file once nothing does, and once no backup is left of a time when something did.
    """
    from workers.kms.local.managed import managed_generations
    from workers.main_keys.inventory import list_managed_generations

    path = _path(file)
    with opened() as services:
        found = list_managed_generations(services, managed_generations(path))
    documents = [asdict(one) | {"is_needed": one.is_needed} for one in found]
    rows = [
        (one.generation or "not known", amount(one.roots), amount(one.uploaded_keys), amount(one.upload_params),
         _verdict(one))
        for one in found
    ]  # fmt: skip
    columns = ["generation", "roots ", "uploaded keys ", "upload parameters ", ""]
    say({"file": str(path), "generations": documents}, lambda out: out.print(table(columns, rows)))


def _verdict(found: ManagedGeneration) -> str:
    if found.generation is None:
        return "housekeeping finds out"
    if not found.is_in_file:
        return "MISSING in the file: what hangs from it does not open"
    if found.is_current:
        return "wraps"
    return "needed" if found.is_needed else "needed for nothing"


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


COMMANDS: dict[str, Command] = {"create": create, "rotate": rotate, "list": list_all}
