"""Judges what is stored, with a cipher of its own: nothing of the engine is used but the tables' names.

It learns each key's material when it first sees it, and from then on every look at the database must find the same.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter, defaultdict
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Table

from schemas.events import OUTBOUND
from schemas.states import OPEN
from tests.engine import World
from workers.store import models
from workers.store.audit import verify_chain
from workers.store.types import Uid

Pair = tuple[int, int]

LIVE = {"active", "draining"}

_OPEN = ", ".join(f"'{state}'" for state in sorted(OPEN))
WATCH = (
    "CREATE TABLE IF NOT EXISTS effects (id INTEGER PRIMARY KEY, repack INT, state TEXT, kind TEXT, key INT,"
    " old INT, new INT, whole INT)",
    f"""CREATE TRIGGER IF NOT EXISTS watch_data AFTER UPDATE OF parent_version, wrapped ON data_keys BEGIN
      INSERT INTO effects (kind, key, old, new, whole, repack, state) SELECT
        iif(NEW.parent IS NULL, 'data_root', 'data'), NEW.id, OLD.parent_version, NEW.parent_version,
        OLD.parent_version <> NEW.parent_version AND (NEW.parent IS NULL OR OLD.wrapped IS NOT NEW.wrapped),
        max(id), state FROM repacks WHERE environment = NEW.environment AND state IN ({_OPEN});
    END""",
    f"""CREATE TRIGGER IF NOT EXISTS watch_versions AFTER UPDATE OF parent_version ON wrapping_versions
    WHEN OLD.parent_version <> NEW.parent_version BEGIN
      INSERT INTO effects (kind, key, old, new, whole, repack, state) SELECT
        (SELECT iif(parent IS NULL, 'wrapping_root', 'rehung') FROM wrapping_keys WHERE id = NEW.wrapping_key),
        NEW.wrapping_key, OLD.parent_version, NEW.parent_version, 1, max(r.id), r.state
        FROM repacks r JOIN wrapping_keys k ON k.environment = r.environment
        WHERE k.id = NEW.wrapping_key AND r.state IN ({_OPEN});
    END""",
)  # fmt: skip
"""Triggers that write down each change of a wrap as the database sees it, and in which open repack it happened."""


class Oracle:
    """Looks at a world between its steps."""

    def __init__(self, world: World, *, watching: bool = True) -> None:
        """`watching`: count each effect from now on (SQLite); not for a world whose rows a test changes itself."""
        self._world, self._watching = world, watching and world.url.startswith("sqlite")
        self._data: dict[UUID, bytes] = {}
        self._versions: dict[tuple[UUID, int], bytes] = {}
        self._shards: dict[int, dict[str, Any]] = {}
        if self._watching:
            with world.main.database.write() as connection:
                for statement in WATCH:
                    connection.exec_driver_sql(statement)

    def check(self) -> None:
        """Every rule that holds at every instant."""
        self.check_readable()
        self.check_counts()
        self.check_told()

    # R1, R5, R6 ---------------------------------------------------------------------------------------------------

    def check_readable(self, *, ignoring: frozenset[UUID] = frozenset()) -> None:  # noqa: C901 - all that must open, in one pass
        """Every key opens from what is stored, by every way that has to be there. `ignoring`: keys a test broke."""
        rows = {table: self._rows(table) for table in _TABLES}
        environments = {row["id"]: row for row in rows[models.environments]}
        tops = {(row["environment"], row["version"]): row for row in rows[models.top_versions]}
        wraps: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
        for wrap in rows[models.root_wraps]:
            wraps[wrap["kind"], wrap["key"], wrap["key_version"]].append(wrap)
        keys = {row["id"]: row for row in rows[models.wrapping_keys]}
        versions = {(row["wrapping_key"], row["version"]): row for row in rows[models.wrapping_versions]}
        opened: dict[Pair, bytes] = {}
        for pair, version in sorted(versions.items(), key=lambda item: (keys[item[0][0]]["level"], item[0])):
            key = keys[pair[0]]
            if version["state"] == "shredded":
                assert version["wrapped"] is None, f"a shredded version kept its wrap: {pair}"
                assert not wraps["wrapping", pair[0], pair[1]], f"a shredded root version kept wraps: {pair}"
                continue
            if key["key_id"] in ignoring:
                continue
            environment = environments[key["environment"]]["environment_id"]
            if key["parent"] is None:
                own = wraps["wrapping", pair[0], pair[1]]
                material = self._open_root(environment, key, own, tops, f"version {pair}")
            else:
                parent = (key["parent"], version["parent_version"])
                if parent not in opened:
                    # R5: no version is shredded while something hangs from it.
                    assert parent in versions, f"{pair} hangs from {parent}, which is not there"
                    assert versions[parent]["state"] != "shredded", f"{pair} hangs from {parent}, which is shredded"
                    continue
                material = _open(opened[parent], version["wrapped"], environment, key["key_id"], keys[parent[0]])
            _check_fingerprint(material, environment, key["key_id"], version["fingerprint"])
            assert self._versions.setdefault((key["key_id"], pair[1]), material) == material
            opened[pair] = material
        for row in rows[models.data_keys]:
            if row["key_id"] in ignoring:
                continue
            environment = environments[row["environment"]]["environment_id"]
            if row["parent"] is None:
                material = self._open_root(environment, row, wraps["data", row["id"], 0], tops, f"data key {row['id']}")
            else:
                parent = (row["parent"], row["parent_version"])
                if parent not in opened:
                    assert versions[parent]["state"] != "shredded", f"data key {row['id']} hangs from shredded {parent}"
                    continue
                material = _open(opened[parent], row["wrapped"], environment, row["key_id"], keys[parent[0]])
            _check_fingerprint(material, environment, row["key_id"], row["fingerprint"])
            assert self._data.setdefault(row["key_id"], material) == material

    def _rows(self, table: Table) -> list[dict[str, Any]]:
        """A table as the driver gives it, for SQLite: this is done after every step of thousands."""
        if not self._world.url.startswith("sqlite"):
            return self._world.rows(table)
        uids = [column.name for column in table.columns if isinstance(column.type, Uid)]
        with self._world.main.database.read() as connection:
            cursor = connection.exec_driver_sql(f"SELECT * FROM {table.name}")
            rows = [dict(zip(cursor.keys(), row, strict=True)) for row in cursor]
        for row in rows:
            for name in uids:
                row[name] = UUID(bytes=row[name]) if row[name] else None
        return rows

    def _open_root(
        self,
        environment: UUID,
        row: dict[str, Any],
        wraps: list[dict[str, Any]],
        tops: dict[Pair, dict[str, Any]],
        name: str,
    ) -> bytes:
        """R1: through the old main key while a move is open, through the new one where it has moved."""
        own = {version: top for (of, version), top in tops.items() if of == row["environment"]}
        live = {version for version, top in own.items() if top["state"] in LIVE}
        under = {wrap["top_version"] for wrap in wraps}
        assert under <= live, f"{name} kept wraps under {under - live}, which are not live"
        needed = {version for version in live if own[version]["state"] == "draining"} or live
        assert needed <= under, f"{name} lacks its wrap under {needed - under}"
        materials = set()
        for wrap in wraps:
            main_key = own[wrap["top_version"]]["main_key"].partition(":")[2]
            if not self._world.kms._state(main_key).secrets:
                continue  # the key is gone for good: another way has to be there
            context = {"keyrepack:environment": str(environment), "keyrepack:key": str(row["key_id"])}
            materials.add(self._world.kms.soft_key(main_key).open(wrap["wrapped"], context).material)
        assert len(materials) == 1, f"{name} opens to {len(materials)} materials"
        return materials.pop()

    # R2, R4, R9 ---------------------------------------------------------------------------------------------------

    def check_counts(self) -> None:
        """R9 in every shard; R4: the counts of shards are the effects on keys; R2: at most one effect a key."""
        sums: dict[int, Counter[str]] = defaultdict(Counter)
        for shard in self._rows(models.shards):
            self._check_goes_forward(shard)
            seen = shard["rewrapped"] + shard["already_current"] + shard["quarantined"]
            assert shard["seen"] == seen, f"R9: shard {shard['id']} saw {shard['seen']}, accounts for {seen}"
            sums[shard["repack"]][shard["stage"]] += shard["rewrapped"]
        if not self._watching:
            return
        effects = self.effects()
        for repack, counted in sums.items():
            moved = sum(
                1
                for one in effects
                if one["repack"] == repack and one["kind"].endswith("root") and one["new"] > one["old"]
            )
            assert counted["move"] == moved, f"R4: {counted['move']} moves were counted, {moved} happened"
            below = sum(1 for one in effects if one["repack"] == repack and one["kind"] in ("data", "rehung"))
            told = counted["renew"] + counted["shred"]
            assert told == below, f"R4: {told} rewraps were counted, {below} happened"
        often = Counter((one["repack"], one["kind"], one["key"]) for one in effects if one["kind"] == "data")
        assert all(count == 1 for count in often.values()), f"R2: rewrapped again: {often.most_common(1)}"
        assert all(one["whole"] for one in effects), "R2: wrap and version did not change together"
        forward = [one for one in effects if one["new"] > one["old"]]  # an abort goes back
        idle = [one for one in forward if one["state"] not in ("moving", "renewing")]
        assert not idle, f"a key was rewrapped while nobody may work: {idle[0]}"

    def _check_goes_forward(self, shard: dict[str, Any]) -> None:
        """R4: a checkpoint never goes back, and what has ended stays as it is, whoever comes late."""
        before = self._shards.get(shard["id"])
        self._shards[shard["id"]] = shard
        if before is not None:
            was, now = (before["cursor_parent"], before["cursor_key"]), (shard["cursor_parent"], shard["cursor_key"])
            assert now >= was, f"R4: the cursor of shard {shard['id']} went from {was} back to {now}"
            assert before["state"] not in ("done", "closed") or before == shard, f"R4: shard {shard['id']} had ended"
            assert shard["token"] >= before["token"]

    def effects(self) -> list[dict[str, Any]]:
        """Each committed change of a wrap, as the database itself saw it (SQLite)."""
        with self._world.main.database.read() as connection:
            return [dict(row) for row in connection.exec_driver_sql("SELECT * FROM effects ORDER BY id").mappings()]

    # R11 ----------------------------------------------------------------------------------------------------------

    def check_told(self) -> None:
        """R11: the audit chain is whole, and the outbox tells what it tells."""
        with self._world.main.database.read() as connection:
            verdict = verify_chain(connection)
        assert verdict.whole, verdict
        recorded = [row["action"] for row in sorted(self._world.rows(models.audit), key=lambda row: row["seq"])]
        sent = [row["type"] for row in sorted(self._world.rows(models.outbox), key=lambda row: row["id"])]
        assert sent == [action for action in recorded if action in OUTBOUND]
        assert all(json.loads(row["body"])["data"]["environment"] for row in self._world.rows(models.outbox))

    # The end ------------------------------------------------------------------------------------------------------

    def check_ended(self, environment: int, main_key: str, *, deep: bool) -> None:
        """Nothing is stale, nothing drains, the old main key is needed for nothing; every key is as it was born."""
        self.check()
        tops = self._world.rows(models.top_versions, models.top_versions.c.environment == environment)
        live = [top["main_key"] for top in tops if top["state"] in LIVE]
        assert live == [main_key], f"in force: {live}"
        active: dict[int, int] = {}
        ids = {row["id"] for row in self._world.rows(models.wrapping_keys) if row["environment"] == environment}
        for row in self._world.rows(models.wrapping_versions):
            if row["wrapping_key"] in ids:
                assert not deep or row["state"] != "draining", f"still draining: {row['wrapping_key'], row['version']}"
                if row["state"] == "active":
                    assert row["wrapping_key"] not in active
                    active[row["wrapping_key"]] = row["version"]
        assert active.keys() == ids
        for row in self._world.rows(models.data_keys, models.data_keys.c.environment == environment):
            if deep and row["parent"] is not None:
                assert row["parent_version"] == active[row["parent"]], f"stale: data key {row['id']}"

    def census(self) -> dict[UUID, str]:
        """What every data key opens to, digested: two worlds that took other ways must agree with themselves."""
        self.check_readable()
        return {key: hashlib.sha256(material).hexdigest() for key, material in self._data.items()}

    def knows(self, key: UUID) -> bytes:
        """A data key's material, as it was first seen."""
        return self._data[key]


_TABLES = (
    models.environments,
    models.top_versions,
    models.wrapping_keys,
    models.wrapping_versions,
    models.data_keys,
    models.root_wraps,
)


def _open(parent: bytes, wrap: bytes, environment: UUID, key: UUID, above: dict[str, Any]) -> bytes:
    """The layout, written out a second time: 0x01, nonce (12), ciphertext and tag (48), bound to three ids."""
    assert wrap is not None
    assert len(wrap) == 61
    assert wrap[0] == 1
    bound = b"keyrepack/1" + environment.bytes + key.bytes + above["key_id"].bytes
    return AESGCM(parent).decrypt(wrap[1:13], wrap[13:], bound)


def _check_fingerprint(material: bytes, environment: UUID, key: UUID, born_with: bytes) -> None:
    message = b"keyrepack/fingerprint" + environment.bytes + key.bytes
    assert hmac.new(material, message, "sha256").digest()[:16] == born_with, f"{key} is not the key it was born as"
