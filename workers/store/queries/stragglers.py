"""Stragglers: late writers' keys, still wrapped under draining versions and not set aside."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, tuple_

from schemas.keys import KeyKind
from schemas.ranges import Group
from workers.store.keys import Link, Pair
from workers.store.models import data_keys, quarantine


def read_stragglers(connection: Connection, links: Sequence[Link], *, limit: int) -> list[Group]:
    """Read data keys that are wrapped under these versions (of one environment and level) and are not in quarantine."""
    if not links:
        return []
    columns, held = data_keys.c, quarantine.c
    set_aside = select(1).where(held.kind == KeyKind.DATA, held.key == columns.id, held.open)
    query = (
        select(columns.parent, columns.parent_version, columns.id, columns.key_id, columns.fingerprint, columns.wrapped)
        .where(
            columns.environment == links[0].environment,
            columns.level == links[0].level + 1,
            columns.parent.in_(sorted({link.id for link in links})),
            tuple_(columns.parent, columns.parent_version).in_([link.pair for link in links]),
            ~set_aside.exists(),
        )
        .limit(limit)
    )
    groups: dict[Pair, Group] = {}
    for row in connection.execute(query):
        pair = (row.parent, row.parent_version)
        group = groups.setdefault(pair, Group(*pair, [], [], [], []))
        for column, value in zip(
            (group.ids, group.key_ids, group.fingerprints, group.wraps),
            (row.id, row.key_id.bytes, row.fingerprint, row.wrapped or b""),
            strict=True,
        ):
            column.append(value)  # type: ignore[attr-defined]
    return list(groups.values())


def unheld_versions(connection: Connection, links: Sequence[Link]) -> list[Link]:
    """Return those of these versions that are not themselves in quarantine."""
    if not links:
        return []
    held = quarantine.c
    query = select(held.key, held.key_version).where(
        held.kind == KeyKind.WRAPPING, held.open, held.key.in_(sorted({link.id for link in links}))
    )
    set_aside = {(key, version) for key, version in connection.execute(query)}
    return [link for link in links if link.pair not in set_aside]
