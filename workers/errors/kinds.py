"""The three kinds of error, which say whether trying again can help."""

from __future__ import annotations

from schemas.errors import KeyrepackError


class Transient(KeyrepackError):
    """Worth trying again."""


class Permanent(KeyrepackError):
    """Trying again changes nothing."""


class LostRace(KeyrepackError):
    """Another process was first."""
