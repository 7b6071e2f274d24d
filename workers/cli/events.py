"""events schema, keygen, publish, rejected."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import KeyrepackError
from workers.cli.output import AsJson, Command, facts, moment, say, table, to_json
from workers.cli.session import opened, read_settings

SECRET_MODE = 0o600
MAX_SECRET_BYTES = 1024
"""A secret key has at most 93 characters: longer is another file."""


def schema(as_json: AsJson = False) -> None:
    """Print the JSON Schema of every event, in and out: the contract with other services."""
    import json

    from schemas.events import json_schema

    document = json_schema()
    sys.stdout.write((to_json(document) if as_json else json.dumps(document, indent=2)) + "\n")


def keygen(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where the secret key goes: a new file, mode 0600.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the secret key instead of writing a file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a pair of keys that a service signs its events with: the public one goes into the event sources file.

    Example: keyrepack events keygen console.key
    """
    from producers.signing import generate_key

    if (file is None) != show:
        raise typer.BadParameter("name a file for the secret key, or --show it; one of the two")
    pair = generate_key()
    document = {"public": pair.public}
    if file is None:
        document["secret"] = pair.secret
    else:
        _write_secret(file, pair.secret)
        document["file"] = str(file)
    say(document, lambda out: out.print(facts(document.items())))


def _write_secret(file: Path, secret: str) -> None:
    """Never over another key, never readable by others, not even for a moment."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
    except OSError as error:
        why = f"{file}: {error.strerror}."
        raise KeyrepackError("The keys were not kept.", why, "Name a file that is not there yet.") from error
    with os.fdopen(descriptor, "w") as opened_file:
        opened_file.write(secret + "\n")


def _secret(file: Path) -> str:
    from workers.kms.local.private_file import read_private

    closed, remedy = "The event was not signed", "Make one with `keyrepack events keygen`."
    return read_private(file, max_bytes=MAX_SECRET_BYTES, closed=closed, remedy=remedy).decode(errors="replace").strip()


def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One event as JSON; - reads standard input.")],
    key_file: Annotated[
        list[Path] | None, typer.Option(help="Sign it with the secret key in this file; several while keys rotate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish one event into the queue, as another service would. It is checked first.

    Example: keyrepack events publish replaced.json --key-file console.key
    """
    from producers.publisher import KombuPublisher, publish_event
    from schemas.aws_events import read_message
    from schemas.events import read_data

    body, keys = _body(file), [_secret(path) for path in key_file or []]
    event = read_message(body)
    read_data(event)
    publisher = KombuPublisher(read_settings().broker_url.get_secret_value())
    try:
        publish_event(publisher, body, signing_key=keys)
    finally:
        publisher.close()
    document = {"id": event.id, "source": event.source, "type": event.type, "signatures": len(keys)}
    say(document, lambda out: out.print(f"Event {event.id} ({event.type}) was published."))


def _body(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise KeyrepackError(f"{file} cannot be read.", f"{error.strerror}.", "Name a file that can.") from error


def rejected(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 100, as_json: AsJson = False
) -> None:
    """List events that were refused, the newest first, each with its reason and what to do."""
    from workers.store.inbox import list_rejected

    with opened() as services, services.database.read() as connection:
        found = list_rejected(connection, limit=limit)
    documents = [{name: value for name, value in one.items() if name != "body"} for one in found]
    for document, one in zip(documents, found, strict=True):
        document["body"] = one["body"].decode(errors="replace")
    rows = [
        (moment(one["rejected_at"]), one["event_id"] or "", one["type"] or "", one["code"], one["why"], one["remedy"])
        for one in found
    ]
    columns = ["when", "event", "type", "code", "why", "do"]
    empty = "No event was rejected."
    say({"rejected": documents}, lambda out: out.print(table(columns, rows) if rows else empty))


COMMANDS: dict[str, Command] = {"schema": schema, "keygen": keygen, "publish": publish, "rejected": rejected}
