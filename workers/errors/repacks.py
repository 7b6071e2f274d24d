"""Repacks and environments that cannot do what was asked of them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from workers.errors.kinds import Permanent


class RepackConflict(Permanent):
    """Another repack of the environment is open; nothing was changed."""

    code = "repack_conflict"

    def __init__(self, *, environment: UUID, repack: UUID, state: str) -> None:
        super().__init__(
            "The replacement was refused; nothing was changed.",
            f"Repack {repack} of environment {environment} is {state}.",
            "Wait until it has ended, or abort or stop it first.",
        )
        self.environment, self.repack, self.state = environment, repack, state


class AlreadyInForce(Permanent):
    """The main key asked for is the one in force, at its current generation."""

    code = "already_in_force"

    def __init__(self, *, main_key: str) -> None:
        super().__init__(
            "Nothing was changed.", f"{main_key} is already in force, at this generation.", "Nothing to do."
        )
        self.main_key = main_key


class ReplacedTooSoon(Permanent):
    """A main key is replaced at most once in an interval; nothing was changed."""

    code = "replaced_too_soon"

    def __init__(self, *, environment: UUID, next_at: datetime) -> None:
        super().__init__(
            "The replacement was refused; nothing was changed.",
            f"The main key of environment {environment} was replaced a short while ago.",
            f"It can be replaced again from {next_at:%Y-%m-%d %H:%M:%S} UTC; an operator may override with a reason.",
        )
        self.environment, self.next_at = environment, next_at


class HierarchyBroken(Permanent):
    """The hierarchy is not a tree of at most 8 levels; the keys are named."""

    code = "hierarchy_broken"

    def __init__(self, *, fault: str, keys: list[UUID]) -> None:
        named = ", ".join(str(key) for key in keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")
        super().__init__(
            "The hierarchy cannot be repacked.", f"{fault}: {named}.", "Repair the rows named, then start again."
        )
        self.fault, self.keys = fault, keys


class EnvironmentLocked(Permanent):
    """The environment's data is unavailable to everyone until its main key is given back."""

    code = "environment_locked"

    def __init__(self, *, environment: UUID, cause: str) -> None:
        super().__init__(
            f"Environment {environment} is locked.", f"Its main key is {cause}.", "Give the main key back."
        )
        self.environment, self.cause = environment, cause
