"""Upload parameters and uploaded keys. What is sealed here opens by the platform's own main key alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Connection, insert, select, update

from workers.kms.uploaded import SealedKey
from workers.store.database import Database
from workers.store.models import environments, upload_params, uploaded_keys
from workers.store.types import db_now, read_clock


class ParamsState(StrEnum):
    """The life of upload parameters. Only open ones have a private key."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    GIVEN_UP = "given_up"  # too many uploads were refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Upload parameters as they are stored. The private key is sealed by a key of its own, that one by `managed:`."""

    params_id: UUID
    environment: int
    environment_id: UUID
    wrapped_key: bytes | None = field(repr=False)  # R10
    sealed_private_key: bytes | None = field(repr=False)
    state: ParamsState
    refusals: int
    is_expired: bool


def insert_params(
    connection: Connection,
    *,
    params_id: UUID,
    environment: int,
    wrapped_key: bytes,
    sealed_private_key: bytes,
    seconds: float,
) -> float:
    """New parameters that expire in `seconds`. Returns when: seconds since the epoch."""
    now = read_clock(connection)
    values = {"params_id": params_id, "environment": environment, "state": ParamsState.OPEN, "created_at": now}
    sealed = {"wrapped_key": wrapped_key, "sealed_private_key": sealed_private_key}
    connection.execute(insert(upload_params).values(**values, **sealed, expires_at=now + seconds))
    return now + seconds


def find_params(connection: Connection, params_id: UUID, *, lock: bool = False) -> Params | None:
    """By id; `lock` keeps others from them until the transaction ends."""
    columns = upload_params.c
    query = (
        select(
            *(columns[name] for name in ("params_id", "environment", "wrapped_key", "sealed_private_key")),
            *(columns[name] for name in ("state", "refusals")),
            environments.c.environment_id,
            (columns.expires_at <= db_now()).label("is_expired"),
        )
        .join(environments, environments.c.id == columns.environment)
        .where(columns.params_id == params_id)
    )
    row = connection.execute(query.with_for_update(of=upload_params) if lock else query).mappings().first()
    return Params(**dict(row) | {"state": ParamsState(row["state"])}) if row else None


def count_refusal(connection: Connection, params_id: UUID) -> None:
    """One more upload was refused."""
    condition = upload_params.c.params_id == params_id
    connection.execute(update(upload_params).where(condition).values(refusals=upload_params.c.refusals + 1))


def end_params(connection: Connection, params_id: UUID, state: ParamsState) -> None:
    """Destroy the private key of open parameters."""
    condition = (upload_params.c.params_id == params_id) & (upload_params.c.state == ParamsState.OPEN)
    connection.execute(update(upload_params).where(condition).values(state=state, ended_at=db_now(), **_DESTROYED))


def end_expired_params(connection: Connection) -> int:
    """Destroy the private keys of all parameters that have expired. Returns how many there were."""
    condition = (upload_params.c.state == ParamsState.OPEN) & (upload_params.c.expires_at <= db_now())
    values = {"state": ParamsState.EXPIRED, "ended_at": db_now(), **_DESTROYED}
    return connection.execute(update(upload_params).where(condition).values(values)).rowcount


def insert_key(connection: Connection, *, key_id: UUID, environment: int, sealed: bytes) -> None:
    """A new uploaded key."""
    values = {"key_id": key_id, "environment": environment, "sealed": sealed, "created_at": db_now()}
    connection.execute(insert(uploaded_keys).values(values))


def find_key(connection: Connection, key_id: UUID) -> SealedKey | None:
    """An uploaded key by its id; a deleted one has no bytes."""
    query = (
        select(environments.c.environment_id, uploaded_keys.c.sealed)
        .join(environments, environments.c.id == uploaded_keys.c.environment)
        .where(uploaded_keys.c.key_id == key_id)
    )
    row = connection.execute(query).first()
    return SealedKey(environment=row.environment_id, sealed=row.sealed) if row else None


def load_sealed(database: Database, key_id: UUID) -> SealedKey | None:
    """The same in a transaction of its own: what the provider reads at every use. Raises DatabaseAway."""
    with database.read() as connection:
        return find_key(connection, key_id)


def shred_key(connection: Connection, key_id: UUID) -> bool:
    """Overwrite the sealed bytes of a key. Returns whether there were any."""
    condition = (uploaded_keys.c.key_id == key_id) & uploaded_keys.c.sealed.is_not(None)
    values = {"sealed": None, "deleted_at": db_now()}
    return connection.execute(update(uploaded_keys).where(condition).values(values)).rowcount == 1


_DESTROYED = {"wrapped_key": None, "sealed_private_key": None}
