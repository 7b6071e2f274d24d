"""Every table. The tree (who is whose parent) never changes in a repack: only `parent_version` and `wrapped` do, and
neither is in an index, so PostgreSQL updates them in place (HOT) where half of each page is free.

Times are seconds since the epoch by the database's clock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from schemas.states import OPEN
from workers.store.types import BigId, Uid

HALF_FULL: dict[str, Any] = {"postgresql_with": {"fillfactor": 50}}
"""Room for one new version of every row beside the old one: measured twice as fast as full pages."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

environments = Table(
    "environments",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("environment_id", Uid, nullable=False, unique=True),
    Column("workspace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default="0"),  # goes up when plaintext must be dropped (R8)
    Column("lock_cause", Text),  # not null: locked
    Column("lock_detail", Text),
    Column("locked_at", Float),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("workspace", "name"),
)

revoked_workspaces = Table(
    "revoked_workspaces",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("revoked_at", Float, nullable=False),
)

top_versions = Table(
    "top_versions",
    metadata,
    Column("environment", BigId, ForeignKey("environments.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("main_key", Text, nullable=False),
    Column("generation", Text),
    Column("state", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    PrimaryKeyConstraint("environment", "version"),
)

# `parent` has no foreign key here and in data_keys: rows restored from a backup may lack theirs, and the planner names
# them. A key whose parent is null is a root.
wrapping_keys = Table(
    "wrapping_keys",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("key_id", Uid, nullable=False, unique=True),
    Column("environment", BigId, ForeignKey("environments.id"), nullable=False),
    Column("parent", BigId),
    Column("level", SmallInteger, nullable=False),  # roots: 1
    Index("ix_wrapping_keys_walk", "environment", "level", "id"),
    Index("ix_wrapping_keys_parent", "parent", "id"),
)

wrapping_versions = Table(
    "wrapping_versions",
    metadata,
    Column("wrapping_key", BigId, ForeignKey("wrapping_keys.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("parent_version", Integer, nullable=False),  # of a root: the top version of its newest wrap
    Column("fingerprint", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary),  # null for roots (see root_wraps) and once shredded
    Column("state", Text, nullable=False),
    Column("wraps", BigId, nullable=False, server_default="0"),  # made by it, at most; see WRAP_LIMIT
    Column("repack", BigId),  # the repack that minted it
    PrimaryKeyConstraint("wrapping_key", "version"),
    Index(
        "uq_wrapping_versions_active",
        "wrapping_key",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
    Index("uq_wrapping_versions_minted", "wrapping_key", "repack", unique=True),  # R2: one version a repack
    **HALF_FULL,
)

data_keys = Table(
    "data_keys",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("key_id", Uid, nullable=False, unique=True),
    Column("environment", BigId, nullable=False),
    Column("parent", BigId),
    Column("level", SmallInteger, nullable=False),  # the parent's, plus one
    Column("parent_version", Integer, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary),  # null for roots (see root_wraps)
    Index("ix_data_keys_walk", "environment", "level", "parent", "id"),
    **HALF_FULL,
)

root_wraps = Table(
    "root_wraps",
    metadata,
    Column("environment", BigId, ForeignKey("environments.id"), nullable=False),
    Column("kind", Text, nullable=False),  # KeyKind
    Column("key", BigId, nullable=False),
    Column("key_version", Integer, nullable=False),  # of a data key: 0
    Column("top_version", Integer, nullable=False),
    Column("generation", Text),
    Column("wrapped", LargeBinary, nullable=False),
    PrimaryKeyConstraint("kind", "key", "key_version", "top_version"),
    Index("ix_root_wraps_top", "environment", "top_version"),
)

_OPEN = text("state in (" + ", ".join(f"'{state}'" for state in sorted(OPEN)) + ")")
_QUARANTINED = text("state = 'finished_with_quarantine'")

repacks = Table(
    "repacks",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("repack_id", Uid, nullable=False, unique=True),
    Column("environment", BigId, ForeignKey("environments.id"), nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("levels", SmallInteger, nullable=False),  # of wrapping keys, when planned
    Column("from_top", Integer, nullable=False),
    Column("to_top", Integer, nullable=False),
    Column("source_key", Text, nullable=False),
    Column("target_key", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("block_side", Text),
    Column("block_cause", Text),
    Column("block_detail", Text),
    Column("blocked_at", Float),
    Column("probe_at", Float),  # when a blocked repack is checked again
    Column("probes", Integer, nullable=False, server_default="0"),
    Column("kms_calls", Integer, nullable=False, server_default="0"),  # outside shards: probes
    Column("certificate", JSON),
    Column("turn_at", Float),  # when a worker last took it up: the one that has waited longest is next
    Column("created_at", Float, nullable=False),
    Column("move_closed_at", Float),
    Column("ended_at", Float),
    Index("uq_repacks_open", "environment", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    Index("ix_repacks_environment", "environment", "id"),
    Index("ix_repacks_ended_at", "ended_at"),
    Index("ix_repacks_quarantined", "id", sqlite_where=_QUARANTINED, postgresql_where=_QUARANTINED),
)

shards = Table(
    "shards",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("repack", BigId, ForeignKey("repacks.id"), nullable=False),
    Column("stage", Text, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("kind", Text, nullable=False),  # of roots, in a move
    Column("after_parent", BigId, nullable=False),  # the range is (after, upto]
    Column("after_key", BigId, nullable=False),
    Column("upto_parent", BigId, nullable=False),
    Column("upto_key", BigId, nullable=False),
    Column("cursor_parent", BigId, nullable=False),
    Column("cursor_key", BigId, nullable=False),
    Column("expected", BigId, nullable=False),
    Column("state", Text, nullable=False),
    Column("token", Integer, nullable=False, server_default="0"),  # goes up with each claim: fences late writers (R4)
    Column("owner", Text),
    Column("lease_until", Float),
    Column("takeovers", Integer, nullable=False, server_default="0"),
    Column("seen", BigId, nullable=False, server_default="0"),
    Column("rewrapped", BigId, nullable=False, server_default="0"),
    Column("already_current", BigId, nullable=False, server_default="0"),
    Column("quarantined", BigId, nullable=False, server_default="0"),
    Column("minted", BigId, nullable=False, server_default="0"),
    Column("shredded", BigId, nullable=False, server_default="0"),
    Column("kms_calls", Integer, nullable=False, server_default="0"),
    Column("batches", Integer, nullable=False, server_default="0"),
    Column("started_at", Float),
    Column("checkpointed_at", Float),
    Column("finished_at", Float),
    Index("ix_shards_claim", "repack", "state", "id"),
    **HALF_FULL,
)

# One row a claim and a checkpoint of a shard, in the order in which they committed: what `invariants` judges by.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("shard", BigId, ForeignKey("shards.id"), nullable=False),
    Column("token", Integer, nullable=False),
    Column("claimed", Boolean, nullable=False),  # the lease begins here; false: a batch was committed under it
    Column("epoch", Integer, nullable=False),  # the environment's, as it was in this very transaction (R8)
    Column("cursor_parent", BigId, nullable=False),
    Column("cursor_key", BigId, nullable=False),
    Column("seen", BigId, nullable=False),  # by this batch
    Column("rewrapped", BigId, nullable=False),
    Column("at", Float, nullable=False),
    Index("ix_checkpoints_shard", "shard", "id"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("repack", BigId, ForeignKey("repacks.id"), nullable=False),
    Column("environment", BigId, nullable=False),
    Column("stage", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", BigId, nullable=False),
    Column("key_version", Integer, nullable=False),
    Column("key_id", Uid, nullable=False),
    Column("parent", BigId),
    Column("parent_version", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Index(
        "uq_quarantine_open",
        "kind",
        "key",
        "key_version",
        unique=True,
        sqlite_where=text("open"),
        postgresql_where=text("open"),
    ),
    Index("ix_quarantine_repack", "repack", "id"),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),  # received, handled, rejected
    Column("outcome", JSON),
    Column("received_at", Float, nullable=False),
    Column("handled_at", Float),
    UniqueConstraint("source", "event_id"),
    Index(
        "ix_inbox_received", "id", sqlite_where=text("state = 'received'"), postgresql_where=text("state = 'received'")
    ),
)

rejected_events = Table(
    "rejected_events",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("source", Text),
    Column("event_id", Text),
    Column("type", Text),
    Column("code", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # of one that is too large: its first kilobytes
    Column("rejected_at", Float, nullable=False),
    Column("headers", JSON),  # its signature's: without them it could not be judged again
    Column("outcome", Text),  # replayed or discarded; null: it waits for an operator
    Column("settled_at", Float),
    Column("settled_by", Text),
    Index(
        "ix_rejected_events_open",
        "id",
        sqlite_where=text("outcome is null"),
        postgresql_where=text("outcome is null"),
    ),
)

# What was answered to a request with an Idempotency-Key: the same request again gets the same answer.
answers = Table(
    "answers",
    metadata,
    Column("scope", Text, nullable=False),  # who asked, and for what
    Column("key", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # of the request's body
    Column("status", Integer),  # null: it is being done
    Column("document", JSON),
    Column("at", Float, nullable=False),
    PrimaryKeyConstraint("scope", "key"),
    Index("ix_answers_at", "at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("claimed_until", Float),
    Column("published_at", Float),
    Index(
        "ix_outbox_unpublished",
        "id",
        sqlite_where=text("published_at is null"),
        postgresql_where=text("published_at is null"),
    ),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("environment_id", Uid),
    Column("repack_id", Uid),
    Column("facts", Text, nullable=False),  # canonical JSON: what the hash is over
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("ix_audit_repack", "repack_id", "seq"),
    Index("ix_audit_environment", "environment_id", "seq"),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", BigId, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

ticks = Table(
    "ticks",
    metadata,
    Column("job", Text, nullable=False),
    Column("slot", BigId, nullable=False),
    Column("at", Float, nullable=False),
    PrimaryKeyConstraint("job", "slot"),
)

Index("ix_top_versions_main_key", top_versions.c.main_key, top_versions.c.state, top_versions.c.environment)
"""Which environments a main key is in force in: asked at every poll of it."""

main_keys = Table(
    "main_keys",
    metadata,
    Column("uri", Text, primary_key=True),
    Column("generation", Text),  # as last seen; null: its KMS hides it, or it has never answered
    Column("cause", Text),  # why it cannot be used, or gave no answer (Cause); null: it works
    Column("detail", Text),
    Column("since", Float),  # how long it has been so
    Column("last_looked_at", Float),
    Column("last_answered_at", Float),
    Column("next_look_at", Float, nullable=False),
    Column("interval", Float, nullable=False),  # seconds to the poll after that
    Index("ix_main_keys_due", "next_look_at"),
)

# What is null in these two is destroyed: a database's backups may still hold it, sealed by the platform's own key.
upload_params = Table(
    "upload_params",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("params_id", Uid, nullable=False, unique=True),
    Column("environment", BigId, ForeignKey("environments.id"), nullable=False),
    Column("state", Text, nullable=False),  # ParamsState
    Column("wrapped_key", LargeBinary),  # opens the private key; wrapped by `managed:`
    Column("sealed_private_key", LargeBinary),
    Column("generation", Text),  # of `managed:`, that wraps it; null: from before it was written down
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("ended_at", Float),
    Index(
        "ix_upload_params_open",
        "expires_at",
        sqlite_where=text("state = 'open'"),
        postgresql_where=text("state = 'open'"),
    ),
)

uploaded_keys = Table(
    "uploaded_keys",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("key_id", Uid, nullable=False, unique=True),
    Column("environment", BigId, ForeignKey("environments.id"), nullable=False),
    Column("sealed", LargeBinary),  # wrapped by `managed:`; null: deleted
    Column("generation", Text),  # of `managed:`, that seals it; null: from before it was written down
    Column("created_at", Float, nullable=False),
    Column("deleted_at", Float),
)

schema_terms = Table(
    "schema_terms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("oldest_program", Text, nullable=False),  # the newest revision that the oldest program served knows
)

# What the processes say of themselves, for the pages and the metrics. Nothing of the engine reads these four.
workers_seen = Table(
    "workers_seen",
    metadata,
    Column("owner", Text, primary_key=True),  # the very words of a lease's owner
    Column("name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("queues", JSON, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("progressed_at", Float),  # it did something for a message; null: never yet
    Column("canary_at", Float),
    Column("lock_noticed_at", Float),
    Column("lock_notice_seconds", Float),  # from the lock's commit to that
)

canaries = Table(
    "canaries",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("arrived_at", Float, nullable=False),
    Column("wait_seconds", Float),  # in the queue, by the sender's clock and the database's; null: it bore no stamp
    Column("arrived_by", Text, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, nullable=False),
    Column("labels", Text, nullable=False),  # a JSON list
    Column("value", Float, nullable=False),
    PrimaryKeyConstraint("name", "labels"),
)

audit_checks = Table(
    "audit_checks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("checked_at", Float, nullable=False),
    Column("records", BigId, nullable=False),
    Column("whole", Boolean, nullable=False),
    Column("broken_at", BigId),
    Column("why", Text, nullable=False),
)
