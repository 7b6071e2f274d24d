"""events schema, publish, rejected."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import KeyrepackError
from workers.cli.output import AsJson, Command, moment, say, table, to_json
from workers.cli.session import opened, read_settings


def schema(as_json: AsJson = False) -> None:
    """Print the JSON Schema of every event, in and out: the contract with other services."""
    import json

    from schemas.events import json_schema

    document = json_schema()
    sys.stdout.write((to_json(document) if as_json else json.dumps(document, indent=2)) + "\n")


def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One event as JSON; - reads standard input.")],
    as_json: AsJson = False,
) -> None:
    """Publish one event into the queue, as another service would. It is checked first.

    Example: keyrepack events publish replaced.json
    """
    from producers.publisher import KombuPublisher, publish_event
    from schemas.events import read_data, read_event

    body = _body(file)
    event = read_event(body)
    read_data(event)
    publisher = KombuPublisher(read_settings().broker_url.get_secret_value())
    try:
        publish_event(publisher, body)
    finally:
        publisher.close()
    document = {"id": event.id, "source": event.source, "type": event.type}
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


COMMANDS: dict[str, Command] = {"schema": schema, "publish": publish, "rejected": rejected}
