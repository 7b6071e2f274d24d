"""Workspaces that were revoked as a whole: what is created in one until it is restored is born locked (R8)."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from workers.store.models import revoked_workspaces
from workers.store.types import db_now

_LOCKS = 0x6B71
"""The class of these advisory locks. The object is a hash of the name: sharing one is harmless."""


def lock_workspace(connection: Connection, workspace: str) -> None:
    """Keep a workspace's environments and its revocation as they are, alone, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCKS, func.hashtext(workspace))))


def share_workspace(connection: Connection, workspace: str) -> None:
    """Share a workspace with others who create environments in it. SQLite's one writer is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock_shared(_LOCKS, func.hashtext(workspace))))


def note_revocation(connection: Connection, workspace: str, reason: str) -> bool:
    """Record that a workspace is revoked; lock it first. Return False if it was already: the first reason stays."""
    if revocation_reason(connection, workspace) is not None:
        return False
    values = {"workspace": workspace, "reason": reason, "revoked_at": db_now()}
    connection.execute(insert(revoked_workspaces).values(values))
    return True


def forget_revocation(connection: Connection, workspace: str) -> bool:
    """Record that a workspace is restored; lock it first. Return False if it was not revoked."""
    condition = revoked_workspaces.c.workspace == workspace
    return connection.execute(delete(revoked_workspaces).where(condition)).rowcount == 1


def revocation_reason(connection: Connection, workspace: str) -> str | None:
    """Return why a workspace is revoked, in the customer's words; None if it is not."""
    query = select(revoked_workspaces.c.reason).where(revoked_workspaces.c.workspace == workspace)
    reason: str | None = connection.execute(query).scalar_one_or_none()
    return reason
