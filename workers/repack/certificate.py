"""The certificate that an old main key is needed for nothing: who, when, from, to, counts, census, audit head."""

from __future__ import annotations

import hashlib
from typing import Any

from schemas.keys import MANAGED as MANAGED
from schemas.keys import KeyKind, TopState
from workers.store.audit import lock_head
from workers.store.database import Connection
from workers.store.environments import Environment, all_tops
from workers.store.repacks import Repack
from workers.store.roots import root_page
from workers.store.shards import progress
from workers.store.types import read_clock

STATEMENT = "No key of this environment needs the old main key any more. Its owner may disable or delete it."
ROTATED = "No key of this environment needs the main key's older generation any more. The key itself stays in force."
SEALS = (
    "No key of this environment is wrapped by the platform's own main key any more. It stays needed: it seals the "
    "uploaded main key. `keyrepack managed-key list` says which of its generations."
)
"""What a certificate says where another key took over, where the same key has new material, and where the new one is
sealed by the old one."""


def make_certificate(
    connection: Connection, repack: Repack, environment: Environment, *, backup_retention: float
) -> dict[str, Any]:
    """Make the certificate of what is true as the move closes, in the transaction that closes it. JSON values only.

    Backups hold wraps of the old main key for `backup_retention` seconds more: `holds_from` is when they are gone.
    """
    closed_at = read_clock(connection)
    tops = {top["version"]: top for top in all_tops(connection, environment.id)}
    seq, digest = lock_head(connection)
    roots, census = _census(connection, environment, repack.to_top)
    parts = progress(connection, repack.id)
    return {
        "statement": _statement(repack),
        "repack": str(repack.repack_id),
        "environment": str(environment.environment_id),
        "workspace": environment.workspace,
        "name": environment.name,
        "mode": repack.mode.value,
        "actor": repack.actor,
        "from": _end(tops[repack.from_top]),
        "also_retired": [_end(top) for top in tops.values() if _is_left_behind(top, repack)],
        "to": _end(tops[repack.to_top]),
        "started_at": repack.created_at,
        "closed_at": closed_at,
        "holds_from": closed_at + backup_retention,
        "roots": roots,
        "rewrapped": sum(part.rewrapped for part in parts),
        "already_current": sum(part.already_current for part in parts),
        "census": census,
        "audit": {"seq": seq, "hash": digest.hex()},
    }


def _statement(repack: Repack) -> str:
    if repack.source_key == repack.target_key:
        return ROTATED
    is_sealed = repack.source_key == str(MANAGED) and repack.target_key.startswith("uploaded:")
    return SEALS if is_sealed else STATEMENT


def _census(connection: Connection, environment: Environment, top_version: int) -> tuple[int, str]:
    """Count the root versions under `top_version`, and hash kind, key id, version and fingerprint of each (SHA-256)."""
    count, digest = 0, hashlib.sha256()
    for kind in (KeyKind.WRAPPING, KeyKind.DATA):
        after = 0
        while roots := root_page(connection, environment.id, kind, after=after, upto=2**62, limit=500):
            for root in roots:
                if root.is_under(top_version):
                    count += 1
                    digest.update(f"{kind}:{root.key_id}:{root.version}:{root.fingerprint.hex()}\n".encode())
            after = roots[-1].key
    return count, digest.hexdigest()


def _is_left_behind(top: dict[str, Any], repack: Repack) -> bool:
    """Return True for a top from which an earlier repack could not close its move."""
    return bool(top["state"] == TopState.DRAINING and top["version"] < repack.from_top)


def _end(top: dict[str, Any]) -> dict[str, Any]:
    return {"main_key": top["main_key"], "generation": top["generation"], "top_version": top["version"]}
