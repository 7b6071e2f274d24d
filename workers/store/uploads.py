"""Upload parameters and uploaded keys. What is sealed here opens by the platform's own main key alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Connection, insert, select, update

from workers.kms.local.uploaded import SealedKey
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSeal:
    """An uploaded key that is there, with the generation of the platform's own that seals it."""

    row: int
    key_id: UUID
    environment_id: UUID
    sealed: bytes = field(repr=False)
    generation: str | None


def insert_params(
    connection: Connection,
    *,
    params_id: UUID,
    environment: int,
    wrapped_key: bytes,
    sealed_private_key: bytes,
    generation: str | None,
    seconds: float,
) -> float:
    """Insert parameters that expire in `seconds`. Return when: seconds since the epoch."""
    now = read_clock(connection)
    values = {"params_id": params_id, "environment": environment, "state": ParamsState.OPEN, "created_at": now}
    sealed = {"wrapped_key": wrapped_key, "sealed_private_key": sealed_private_key, "generation": generation}
    connection.execute(insert(upload_params).values(**values, **sealed, expires_at=now + seconds))
    return now + seconds


def find_params(connection: Connection, params_id: UUID, *, lock: bool = False) -> Params | None:
    """Find parameters by id; `lock` keeps other transactions from them until this one ends."""
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
    """Count one more refused upload."""
    condition = upload_params.c.params_id == params_id
    connection.execute(update(upload_params).where(condition).values(refusals=upload_params.c.refusals + 1))


def end_params(connection: Connection, params_id: UUID, state: ParamsState) -> None:
    """Destroy the private key of open parameters."""
    condition = (upload_params.c.params_id == params_id) & (upload_params.c.state == ParamsState.OPEN)
    connection.execute(update(upload_params).where(condition).values(state=state, ended_at=db_now(), **_DESTROYED))


def end_expired_params(connection: Connection) -> list[tuple[UUID, int]]:
    """Destroy the private keys of all parameters that have expired. Returns (id, environment) of each."""
    columns = upload_params.c
    condition = (columns.state == ParamsState.OPEN) & (columns.expires_at <= db_now())
    values = {"state": ParamsState.EXPIRED, "ended_at": db_now(), **_DESTROYED}
    statement = update(upload_params).where(condition).values(values)
    return [(row[0], row[1]) for row in connection.execute(statement.returning(columns.params_id, columns.environment))]


def insert_key(
    connection: Connection, *, key_id: UUID, environment: int, sealed: bytes, generation: str | None
) -> None:
    """Insert an uploaded key, sealed by this generation of the platform's own."""
    values = {"key_id": key_id, "environment": environment, "sealed": sealed, "generation": generation}
    connection.execute(insert(uploaded_keys).values(**values, created_at=db_now()))


def find_key(connection: Connection, key_id: UUID) -> SealedKey | None:
    """Find an uploaded key by its id; a deleted one has no bytes."""
    query = (
        select(environments.c.environment_id, uploaded_keys.c.sealed)
        .join(environments, environments.c.id == uploaded_keys.c.environment)
        .where(uploaded_keys.c.key_id == key_id)
    )
    row = connection.execute(query).first()
    return SealedKey(environment=row.environment_id, sealed=row.sealed) if row else None


def load_sealed(database: Database, key_id: UUID) -> SealedKey | None:
    """Load an uploaded key in a transaction of its own: what the provider reads at every use. Raises DatabaseAway."""
    with database.read() as connection:
        return find_key(connection, key_id)


def sealed_otherwise(connection: Connection, generation: str, *, after: int, limit: int) -> list[StoredSeal]:
    """Read a page of the keys that another generation of the platform's own seals, or an unrecorded one."""
    columns = uploaded_keys.c
    is_other = columns.generation.is_(None) | (columns.generation != generation)
    query = (
        select(
            columns.id.label("row"), columns.key_id, environments.c.environment_id, columns.sealed, columns.generation
        )
        .join(environments, environments.c.id == columns.environment)
        .where(columns.sealed.is_not(None), is_other, columns.id > after)
        .order_by(columns.id)
        .limit(limit)
    )
    return [StoredSeal(**row) for row in connection.execute(query).mappings()]


def replace_seal(connection: Connection, seal: StoredSeal, *, sealed: bytes, generation: str | None) -> bool:
    """Swap a key's sealed bytes, with their generation. False where they are not what they were (R2)."""
    condition = (uploaded_keys.c.id == seal.row) & (uploaded_keys.c.sealed == seal.sealed)
    values = {"sealed": sealed, "generation": generation}
    return connection.execute(update(uploaded_keys).where(condition).values(values)).rowcount == 1


def shred_key(connection: Connection, key_id: UUID) -> bool:
    """Overwrite the sealed bytes of a key. Returns whether there were any."""
    condition = (uploaded_keys.c.key_id == key_id) & uploaded_keys.c.sealed.is_not(None)
    values = {"sealed": None, "generation": None, "deleted_at": db_now()}
    return connection.execute(update(uploaded_keys).where(condition).values(values)).rowcount == 1


_DESTROYED = {"wrapped_key": None, "sealed_private_key": None, "generation": None}
