"""Opens every key of an environment and checks that it is the one it was born as, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from schemas.keys import KeyKind
from schemas.ranges import END, Group, last_cursor
from workers.crypto.rewrap import rewrap_group
from workers.errors import WrapRefused
from workers.services import Services
from workers.store.environments import Environment, count_keys
from workers.store.hierarchy_queries import count_draining, count_stale
from workers.store.keys import wrapping_page, wrapping_rows
from workers.store.roots import Root, root_page

NAMED = 100
"""How many broken keys a report names at most."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a verification saw."""

    environment: str
    data_keys: int = 0
    wrapping_keys: int = 0
    verified: int = 0  # data keys and wrapping keys' versions that opened to what they were born as
    broken: int = 0
    stale: int = 0
    draining: int = 0
    named: list[dict[str, Any]] = field(default_factory=list)

    def broke(self, key_id: UUID, reason: str) -> None:
        """Count a key that did not open, and name the first ones."""
        self.broken += 1
        if len(self.named) < NAMED:
            self.named.append({"key": str(key_id), "reason": reason})


def verify_environment(
    services: Services, environment: Environment, *, on_progress: Callable[[int], None] = lambda _: None
) -> Report:
    """Open every key. Raises KmsRefused, KmsUnreachable where the main key does not open the roots."""
    report = Report(environment=str(environment))
    with services.database.read() as connection:
        counts = count_keys(connection, environment.id)
        report.stale = count_stale(connection, environment.id)
        report.draining = count_draining(connection, environment.id)
    report.wrapping_keys, report.data_keys = sum(counts["wrapping"].values()), sum(counts["data"].values())
    for root in _data_roots(services, environment):
        opened = services.loop.run(
            services.key_opener.open_root(environment.environment_id, root.key_id, list(root.wraps), root.fingerprint)
        )
        _count(report, root.key_id, opened)
    for level in sorted(counts["wrapping"]):
        _verify_level(services, environment, level, report, on_progress)
    return report


def _data_roots(services: Services, environment: Environment) -> Iterator[Root]:
    after = 0
    while True:
        with services.database.read() as connection:
            roots = root_page(connection, environment.id, KeyKind.DATA, after=after, upto=END, limit=200)
        yield from roots
        if not roots:
            return
        after = roots[-1].key


def _verify_level(
    services: Services, environment: Environment, level: int, report: Report, on_progress: Callable[[int], None]
) -> None:
    """Verify the wrapping keys of a level by their active versions, then the data keys below them."""
    after = 0
    while True:
        with services.database.read() as connection:
            rows = wrapping_page(connection, environment.id, level, after=after, upto=END, limit=200)
        if not rows:
            break
        pairs = {(row.id, row.active_version or 0): row.key_id for row in rows}
        for pair, material in services.key_opener.open(environment.environment_id, pairs).items():
            _count(report, pairs[pair], material)
        after = rows[-1].id
    cursor = (0, END)
    while True:
        with services.database.read() as connection:
            groups = services.pages.read(
                connection, environment.id, level + 1, after=cursor, upto=(END, END), limit=services.settings.batch_size
            )
        if not groups:
            return
        _verify_groups(services, environment, groups, report)
        cursor = last_cursor(groups)
        on_progress(report.verified)


def _verify_groups(services: Services, environment: Environment, groups: list[Group], report: Report) -> None:
    pairs = {(group.parent, group.parent_version) for group in groups}
    opened = services.key_opener.open(environment.environment_id, pairs)
    with services.database.read() as connection:
        parents = wrapping_rows(connection, {group.parent for group in groups})
    for group in groups:
        material = opened[(group.parent, group.parent_version)]
        if isinstance(material, WrapRefused):
            for key_id in group.key_ids:
                report.broke(UUID(bytes=bytes(key_id)), material.reason.value)
            continue
        # The very loop of the walk opens and checks each key; its new wraps are thrown away.
        done = rewrap_group(
            group,
            old=material,
            new=material,
            environment=environment.environment_id,
            parent=parents[group.parent].key_id,
        )
        report.verified += len(done.ids)
        for _, key_id, reason in done.refused:
            report.broke(UUID(bytes=bytes(key_id)), reason.value)


def _count(report: Report, key_id: UUID, opened: bytes | WrapRefused) -> None:
    if isinstance(opened, WrapRefused):
        report.broke(key_id, opened.reason.value)
    else:
        report.verified += 1
