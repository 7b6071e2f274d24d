"""main-key revoke, restore: by the customer's word, for an environment or a whole workspace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.output import AsJson, Command, say, table
from workers.cli.session import actor, opened

if TYPE_CHECKING:
    from workers.store.environments import Environment

Scope = Annotated[
    str, typer.Argument(metavar="ENV|WORKSPACE", help="An environment: its id, or workspace/name; or a workspace.")
]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit.")]


def revoke(scope: Scope, reason: Reason, as_json: AsJson = False) -> None:
    """Lock an environment, or all of a workspace, at once: every process drops its keys and refuses.

    What is created in a revoked workspace is locked from its beginning. Running repacks are parked, and go on by
    themselves once `main-key restore` gives the key back.
    """
    _turn("revoke", scope, reason)


def restore(scope: Scope, reason: Reason = "", as_json: AsJson = False) -> None:
    """Take a revocation back. A lock that the KMS's own refusal set is not lifted by it: that ends with the refusal."""
    _turn("restore", scope, reason)


def _turn(act: str, scope: str, reason: str) -> None:
    from workers.locks import locking
    from workers.store.environments import environments_of, is_id

    is_workspace = "/" not in scope and not is_id(scope)
    turn: Callable[..., list[Environment]] = getattr(locking, f"{act}_workspace" if is_workspace else act)
    with opened(wakes=True) as services:
        with services.database.read() as connection:
            found = environments_of(connection, scope)
        changed = {one.id for one in turn(services, scope if is_workspace else found, actor=actor(), reason=reason)}
        with services.database.read() as connection:
            now = environments_of(connection, scope)
    documents = [
        {
            "environment": str(one),
            "environment_id": str(one.environment_id),
            "lock": one.lock_cause,
            "changed": one.id in changed,
        }
        for one in now
    ]
    rows = [(one, one.lock_cause or "not locked", "now" if one.id in changed else "as before") for one in now]
    say({"environments": documents}, lambda out: out.print(table(["environment", "lock", ""], rows)))


COMMANDS: dict[str, Command] = {"revoke": revoke, "restore": restore}
