"""environment create, list, show; seed."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from rich.console import Console

from workers.cli.output import AsJson, Command, amount, console, duration, facts, moment, say, table
from workers.cli.session import actor, opened

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

Reference = Annotated[str, typer.Argument(metavar="ENV", help="An environment: its id, or workspace/name.")]


def _place(text: str) -> str:
    workspace, slash, name = text.partition("/")
    if not slash or not NAME.fullmatch(workspace) or not NAME.fullmatch(name):
        raise typer.BadParameter("name it WORKSPACE/NAME, each 1 to 64 of letters, digits, '.', '_' and '-'")
    return text


def create(
    place: Annotated[str, typer.Argument(metavar="WORKSPACE/NAME", callback=_place, help="Such as acme/production.")],
    main_key: Annotated[str, typer.Option(help="Its main key, by URI.")] = "managed:",
    as_json: AsJson = False,
) -> None:
    """Create an environment on a main key, which has to answer.

    Example: keyrepack environment create acme/production --main-key aws-kms:arn:aws:kms:…
    """
    from workers.errors import AlreadyThere
    from workers.keyring.keyring import Keyring
    from workers.monitoring.environment_report import view_environment
    from workers.store.environments import find_environment

    workspace, _, name = place.partition("/")
    with opened(wakes=True) as services:
        with services.database.read() as connection:
            _require_free(connection, place)
        try:
            Keyring(services).create_environment(workspace, name, main_key=main_key, actor=actor())
        except AlreadyThere:  # another one was faster
            raise _exists(place) from None
        with services.database.read() as connection:
            document = view_environment(connection, find_environment(connection, place))
    lock = f"; locked, its workspace is {document['lock']}" if document["lock"] else ""
    text = f"Environment {place} is there: {document['id']}, on {document['main_key']}{lock}"
    say(document, lambda out: out.print(text))


def _require_free(connection: Any, place: str) -> None:
    from workers.errors import NotFound
    from workers.store.environments import find_environment

    try:
        find_environment(connection, place)
    except NotFound:
        return
    raise _exists(place)


def _exists(place: str) -> Exception:
    from schemas.errors import KeyrepackError

    error = KeyrepackError(
        f"Environment {place} was not created.",
        "There is one of that name.",
        f"Look at it with `keyrepack environment show {place}`.",
    )
    error.code = "environment_exists"
    return error


def list_all(as_json: AsJson = False) -> None:
    """List environments with their main keys and newest repacks."""
    from workers.monitoring.environment_report import view_environment
    from workers.store.environments import list_environments

    with opened() as services, services.database.read() as connection:
        views = [view_environment(connection, one, count=False) for one in list_environments(connection)]
    rows = [
        (
            f"{view['workspace']}/{view['name']}",
            view["main_key"],
            f"{view['repack']['mode']}, {view['repack']['state']}" if view["repack"] else "none",
            view["lock"] or "",
            view["id"],
        )
        for view in views
    ]
    empty = "There are no environments. Create one with `keyrepack environment create WORKSPACE/NAME`."
    columns = ["environment", "main key", "newest repack", "lock", "id"]
    say({"environments": views}, lambda out: out.print(table(columns, rows) if rows else empty))


def show(environment: Reference, as_json: AsJson = False) -> None:
    """Show an environment: its lock, main keys so far, keys by kind and level, newest repack, next replacement."""
    from workers.monitoring.environment_report import view_environment
    from workers.repack.replacement_interval import next_replacement
    from workers.store.environments import find_environment

    with opened() as services, services.database.read() as connection:
        found = find_environment(connection, environment)
        interval = services.settings.replacement_interval
        next_at = next_replacement(connection, found, interval=interval) if interval else None
        view = view_environment(connection, found) | {"next_replacement": next_at}
    say(view, lambda out: _print_environment(out, view))


def _print_environment(out: Console, view: dict[str, Any]) -> None:
    repack, next_at = view["repack"], view["next_replacement"]
    newest = f"{repack['id']}, {repack['mode']}, {repack['state']}" if repack else "none"
    lines = [
        ("id", view["id"]), ("created", moment(view["created_at"])), ("main key", view["main_key"]),
        ("lock", view["lock"]), ("locked since", moment(view["locked_at"])), ("because", view["lock_detail"]),
        ("newest repack", newest), ("next replacement", f"from {moment(next_at)}" if next_at else "at any time"),
    ]  # fmt: skip
    out.print(f"[bold]{view['workspace']}/{view['name']}[/]")
    out.print(facts(lines))
    keys = [(kind, level, amount(count)) for kind, levels in view["keys"].items() for level, count in levels.items()]
    if keys:
        out.print()
        out.print(table(["keys", "level ", "count "], keys))
    tops = [(top["version"], top["state"], top["main_key"], top["generation"] or "hidden") for top in view["tops"]]
    out.print()
    out.print(table(["top ", "state", "main key", "generation"], tops))


def seed(
    environment: Reference,
    connections: Annotated[int, typer.Option(min=0, help="Connection keys: data keys below the main key.")] = 5,
    hourly: Annotated[int, typer.Option(min=0, help="Hourly keys: wrapping keys below the main key.")] = 24,
    data: Annotated[int, typer.Option(min=0, help="Job data keys, spread evenly over the hourly keys.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Create a hierarchy of the usual tree, in chunks: memory stays the same for a thousand keys and for a billion.

    Example: keyrepack seed acme/production --connections 5 --hourly 24 --data 100000
    """
    import time

    if data and not hourly:
        raise typer.BadParameter("job data keys need hourly keys to hang from: give --hourly at least 1")
    from workers.keyring.keyring import Keyring
    from workers.store.environments import find_environment

    begun = time.monotonic()
    with opened() as services:
        with services.database.read() as connection:
            found = find_environment(connection, environment)
        _seed(Keyring(services), str(found), connections, hourly, data)
    seconds = time.monotonic() - begun
    document = {"environment": str(found), "connections": connections, "hourly": hourly, "data": data}
    text = f"{amount(connections + hourly + data)} keys were created in {found}, in {duration(seconds)}."
    say(document | {"seconds": round(seconds, 3)}, lambda out: out.print(text))


def _seed(keyring: Any, environment: str, connections: int, hourly: int, data: int) -> None:
    from workers.cli.progress_counter import counted
    from workers.cli.seed_tree import seed_hierarchy

    with counted(console(error=True), "creating keys", connections + hourly + data) as on_progress:
        seed_hierarchy(keyring, environment, connections=connections, hourly=hourly, data=data, on_progress=on_progress)


COMMANDS: dict[str, Command] = {"create": create, "list": list_all, "show": show}
