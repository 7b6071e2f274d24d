"""dashboard; user add, list, password, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.output import AsJson, Command, console, facts, say, table
from workers.cli.session import opened, quiet_logs, read_settings

if TYPE_CHECKING:
    from workers.dashboard.auth.users import Users

Name = Annotated[str, typer.Argument(metavar="NAME", help="1 to 64 of letters, digits and . _ @ + -")]


def dashboard() -> None:
    """Run the dashboard: pages, live, with a JSON API, for people who look and steer.

    Its first start makes the users file with one user, and prints that user's one-time password.
    """
    from workers.celery_app.app import make_waker
    from workers.compose import broker_notifier, build_services
    from workers.dashboard.auth.users import FIRST_USER, first_start
    from workers.dashboard.server import address, listen, require_private, serve
    from workers.runtime.logs import configure_logs
    from workers.store.revisions import require_current

    settings = read_settings()
    require_private(settings)
    password = first_start(settings.users_file) if settings.oidc_issuer is None else None
    if password is not None:
        lines = [("name", FIRST_USER), ("one-time password", password), ("kept in", settings.users_file)]
        console().print(facts(lines))
    with opened():  # the database is there, or the reason is told in a sentence
        listening = listen(settings)
    configure_logs(settings)
    services = build_services(settings, wake=make_waker(settings), notifier=broker_notifier(settings))
    try:
        require_current(services.database)
        serve(services, listening, on_ready=lambda: console().print(f"dashboard: {address(settings, listening)}"))
    finally:
        services.close()


def add(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer sees, operator steers, security may abort, unlock and override.")],
    token: Annotated[bool, typer.Option("--token", help="A program: print a token for the JSON API.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let somebody sign in to the dashboard: print a one-time password, or a program's token; it is shown once.

    Example: keyrepack user add ada --role security
    """
    from workers.dashboard.auth.users import Role, is_name

    users = _users()
    if role not in set(Role):
        raise typer.BadParameter(f"the roles are {', '.join(Role)}")
    if not is_name(name):
        raise typer.BadParameter("a name has 1 to 64 of letters, digits and . _ @ + -")
    word = "token" if token else "one_time_password"
    secret = users.add_with_token(name, Role(role)) if token else users.add_with_password(name, Role(role))
    document = {"name": name, "role": role, word: secret}
    say(document, lambda out: out.print(facts((key.replace("_", "-"), value) for key, value in document.items())))


def list_all(as_json: AsJson = False) -> None:
    """List who may sign in, and as what."""
    found = [
        {"name": user.name, "role": user.role.value, "by": "token" if user.token else "password", "new": user.one_time}
        for user in _users().table().values()
    ]
    rows = [(one["name"], one["role"], one["by"], "has not chosen one yet" if one["new"] else "") for one in found]
    say({"users": found}, lambda out: out.print(table(["name", "role", "by", ""], rows)))


def password(name: Name, as_json: AsJson = False) -> None:
    """Give somebody another one-time password."""
    document = {"name": name, "one_time_password": _users().renew_password(name)}
    say(document, lambda out: out.print(facts((key.replace("_", "-"), value) for key, value in document.items())))


def remove(name: Name, as_json: AsJson = False) -> None:
    """Let somebody in no more; open sessions end at their next request."""
    _users().remove(name)
    say({"name": name, "removed": True}, lambda out: out.print(f"{name} is removed."))


def _users() -> Users:
    from workers.dashboard.auth.users import Users

    settings = read_settings()
    quiet_logs(settings)
    return Users(settings.users_file)


COMMANDS: dict[str, Command] = {"add": add, "list": list_all, "password": password, "remove": remove}
