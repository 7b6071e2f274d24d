"""Races that another process won: drop what you hold, and read again."""

from __future__ import annotations

from uuid import UUID

from workers.errors.kinds import LostRace


class LeaseLost(LostRace):
    """The shard is another worker's by now, or its repack no longer runs. What was not committed is void (R4)."""

    code = "lease_lost"

    def __init__(self, *, shard: int, why: str) -> None:
        super().__init__(f"The lease of shard {shard} is lost.", why, "Nothing to do: another worker has it.")
        self.shard = shard


class VersionGone(LostRace):
    """The wrapping version was shredded before the key was stored under it (R5)."""

    code = "version_gone"

    def __init__(self, *, key: UUID, version: int) -> None:
        super().__init__(f"Version {version} of key {key} is shredded.", "", "Take the active version.")
        self.key, self.version = key, version


class TopChanged(LostRace):
    """The environment's live top versions changed between the KMS's answer and the commit."""

    code = "top_changed"

    def __init__(self, *, environment: UUID) -> None:
        super().__init__(f"The top of environment {environment} changed meanwhile.", "", "Look again.")
        self.environment = environment


class AnotherStarted(LostRace):
    """Another repack of the environment was started first."""

    code = "another_started"

    def __init__(self) -> None:
        super().__init__("Another repack was started first.", "", "Look again.")
