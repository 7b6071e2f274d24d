"""Wraps that do not open."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from workers.errors.kinds import Permanent


class WrapReason(StrEnum):
    """Why a wrap does not open. The reason of a quarantine."""

    MALFORMED = "malformed"  # not of the layout: cut short, another version, not ours
    DOES_NOT_OPEN = "does_not_open"  # a flipped bit, or it belongs to another row, tenant or parent
    WRONG_FINGERPRINT = "wrong_fingerprint"  # it opens, to other material than the key was born with
    PARENT_DOES_NOT_OPEN = "parent_does_not_open"  # the version it is wrapped under is itself in quarantine
    PARENT_MISSING = "parent_missing"  # the version it is wrapped under is shredded or was never there


class WrapRefused(Permanent):
    """These bytes do not open. Says nothing about any other key."""

    code = "wrap_refused"

    def __init__(self, *, reason: WrapReason, key: UUID | None = None) -> None:
        name = f"The wrap of key {key}" if key else "The wrap"
        super().__init__(
            f"{name} does not open.", f"Reason: {reason.value}.", "Restore its row from a backup, then retry."
        )
        self.reason, self.key = reason, key
