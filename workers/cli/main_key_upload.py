"""main-key upload-params, upload, delete-upload: keys that customers bring as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from schemas.errors import KeyrepackError
from workers.cli.environment import Reference
from workers.cli.output import AsJson, Command, facts, say
from workers.cli.session import actor, opened


def upload_params(
    environment: Reference,
    file: Annotated[Path | None, typer.Option(help="Write the public key (PEM) here, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a public key that a customer wraps their own 256-bit key for. It takes one upload, within a day.

    Example: keyrepack main-key upload-params acme/production --file public.pem, then

    openssl pkeyutl -encrypt -pubin -inkey public.pem -in key.bin -out wrapped.bin -pkeyopt rsa_padding_mode:oaep
    -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256
    """
    from workers.main_keys.uploads import create_params

    with opened(wakes=True) as services:
        params = create_params(services, environment, actor())
    if file is not None:
        file.write_text(params.public_key)
    document = {
        "params_id": str(params.params_id),
        "environment_id": str(params.environment),
        "public_key": params.public_key,
        "algorithms": [algorithm.value for algorithm in params.algorithms],
        "expires_at": params.expires_at.timestamp(),
    }
    lines = [
        ("parameters", params.params_id), ("algorithms", ", ".join(params.algorithms)),
        ("good until", f"{params.expires_at:%Y-%m-%d %H:%M:%S} UTC"), ("public key", file or params.public_key),
    ]  # fmt: skip
    say(document, lambda out: out.print(facts(lines)))


def upload(
    params_id: Annotated[UUID, typer.Argument(metavar="PARAMS_ID", help="The id that came with the public key.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The wrapped key, as raw bytes.")],
    algorithm: Annotated[
        str, typer.Option(help="RSAES_OAEP_SHA_256, or RSA_AES_KEY_WRAP_SHA_256.")
    ] = "RSAES_OAEP_SHA_256",
    as_json: AsJson = False,
) -> None:
    """Take in a wrapped key; prints the URI that `main-key replace` takes. The key itself is never shown again.

    Exactly 32 bytes of key are accepted. A file that is refused can be corrected: five times, then new parameters are
    needed.
    """
    from workers.main_keys.uploads import MAX_WRAPPED_BYTES, UploadAlgorithm, accept

    if algorithm not in set(UploadAlgorithm):
        raise typer.BadParameter(f"the algorithms are {', '.join(UploadAlgorithm)}", param_hint="--algorithm")
    wrapped = _read(file, MAX_WRAPPED_BYTES + 1)
    with opened(wakes=True) as services:
        uri = str(accept(services, params_id, wrapped, algorithm, actor()))
    text = f"The key was taken in: {uri}\nPut it in force with `keyrepack main-key replace ENV {uri}`."
    say({"main_key": uri, "params_id": str(params_id), "algorithm": algorithm}, lambda out: out.print(text))


def _read(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as opened_file:
            return opened_file.read(limit)
    except OSError as error:
        raise KeyrepackError(f"{file} cannot be read.", f"{error.strerror}.", "Name a file that can.") from error


def delete_upload(
    uri: Annotated[str, typer.Argument(metavar="URI", help="The uploaded key: uploaded:<id>.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit.")],
    as_json: AsJson = False,
) -> None:
    """Delete an uploaded key by the customer's word, for good, in use or not: what hangs from it is lost for ever."""
    from schemas.keys import MainKeyUri
    from workers.main_keys.uploads import delete

    key = MainKeyUri.parse(uri)
    with opened(wakes=True) as services:
        deleted = delete(services, key, actor(), reason=reason)
    text = f"{uri} is deleted." if deleted else f"{uri} was deleted before."
    say({"main_key": uri, "deleted": deleted}, lambda out: out.print(text))


COMMANDS: dict[str, Command] = {"upload-params": upload_params, "upload": upload, "delete-upload": delete_upload}
