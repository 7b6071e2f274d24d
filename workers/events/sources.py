"""Sources of events: their keys, and what each may say. Closed when not configured.

The file (setting `event_sources_file`, JSON or TOML by its name)::

    {"sources": [{"source": "/console", "keys": ["whpk_…"], "workspaces": ["acme"], "types": ["main_key.revoked"]},
                 {"source": "aws.kms", "trusted": true, "workspaces": ["*"], "types": ["main_key.changed"]}]}

Several keys: one is being rotated. `trusted`: its events need no signature; anyone who reaches the broker is believed
to be it. The file is read again when it changes; one that cannot be read leaves the former table in force, and is
logged.
"""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import EventRejected, KeyrepackError
from schemas.events import INBOUND, Event, Text, first_error
from schemas.signatures import SIGNATURE_HEADER, Signed, read_headers, read_public_key, signed_content
from workers.errors import NotConfigured
from workers.runtime.logs import log
from workers.runtime.settings import Settings

ANY = "*"
"""As a workspace: all of them."""

MAX_FILE_BYTES = 4 * 1024 * 1024
LATE_TYPES = frozenset({"main_key.revoked"})
"""What holds however late it comes: data that a customer took back must not stay readable for want of a fast queue."""

_Stamp = tuple[int, int, int]


class Source(BaseModel):
    """One that may say something: with which keys, about which workspaces, and what."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: Text
    keys: tuple[str, ...] = ()
    workspaces: Annotated[frozenset[Text], Field(min_length=1)]
    types: Annotated[frozenset[Text], Field(min_length=1)]
    trusted: bool = Field(default=False, strict=True)

    @field_validator("keys")
    @classmethod
    def _are_public_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for number, key in enumerate(keys):
            try:
                read_public_key(key)
            except KeyrepackError as error:
                raise ValueError(f"key {number}: {error.why}") from None
        return keys

    @field_validator("types")
    @classmethod
    def _are_known(cls, types: frozenset[str]) -> frozenset[str]:
        if unknown := sorted(types - INBOUND.keys()):
            raise ValueError(f"{', '.join(unknown)}: there are {', '.join(INBOUND)}")
        return types

    @model_validator(mode="after")
    def _can_be_believed(self) -> Source:
        if not self.keys and not self.trusted:
            raise ValueError("it has no keys and is not trusted: none of its events could be taken")
        return self

    def may(self, kind: str, workspaces: Iterable[str]) -> bool:
        """Return True if it may say `kind` of something that is in all these workspaces; none: of something that is not
        there.
        """
        named = set(workspaces)
        return kind in self.types and (ANY in self.workspaces or (bool(named) and named <= self.workspaces))


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _names_each_once(self) -> _File:
        names = [each.source for each in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there more than once: give one entry several keys")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who said an event, verified as far as its source is configured to be. `signed_at` None: it was not signed."""

    source: Source
    signed_at: int | None

    def require_fresh(self, event: Event, now: float, tolerance: float) -> None:
        """Raise EventRejected (`stale_signature`) for what was signed too long ago, or in the future."""
        if self.signed_at is None or event.type in LATE_TYPES or abs(now - self.signed_at) <= tolerance:
            return
        why = f"It was signed {abs(now - self.signed_at):.0f} s {'ago' if now > self.signed_at else 'in the future'}"
        raise EventRejected(
            "stale_signature", f"{why}; {tolerance:g} s are allowed.", "Check both clocks; sign it anew."
        )

    def require_allowed(self, event: Event, workspaces: Iterable[str]) -> None:
        """Raise EventRejected (`not_allowed`) for a type or workspace that is not its source's."""
        if not self.source.may(event.type, workspaces):
            why = f"{self.source.source} may not say {event.type} of that workspace, or it is not there."
            raise EventRejected("not_allowed", why, "Add type and workspace to the source, if it is meant to.")


class Sources:
    """The table of sources, followed as its file changes. Safe under threads."""

    def __init__(self, path: Path | None, *, allow_unsigned: bool = False) -> None:
        """`allow_unsigned` counts only without a file: everyone is trusted then."""
        self._path, self._open = path, allow_unsigned and path is None
        self._table: Mapping[str, Source] = {}
        self._stamp: _Stamp | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> Sources:
        """Return the sources that these settings name."""
        return cls(settings.event_sources_file, allow_unsigned=settings.allow_unsigned_events)

    def verify(self, event: Event, body: bytes, headers: Mapping[str, object]) -> Sender:
        """Verify who said an event. Raises EventRejected: unknown_source, unsigned, bad_signature; NotConfigured: no
        table yet.
        """
        if self._open:
            everything = Source(source=event.source, workspaces={ANY}, types=set(INBOUND), trusted=True)
            return Sender(source=everything, signed_at=None)
        source = self.table().get(event.source)
        if source is None:
            raise EventRejected(
                "unknown_source", f"{event.source!r} is no source of events here.", "Add it to the event sources file."
            )
        signed = read_headers(headers)
        if source.trusted and (signed is None or not source.keys):
            return Sender(source=source, signed_at=None)
        if signed is None:
            raise EventRejected(
                "unsigned", f"It has no header {SIGNATURE_HEADER}.", "Sign it with a key of its source."
            )
        _require_signature(source, event, body, signed)
        return Sender(source=source, signed_at=signed.timestamp)

    def table(self) -> Mapping[str, Source]:
        """Return the sources by name, as the file says now. Raises NotConfigured if it could never be read."""
        if self._path is None:
            return {}
        with self._lock:
            stamp = _stamp(self._path)
            if stamp is not None and stamp == self._stamp:
                return self._table
            try:
                self._table = read_sources(self._path)
            except NotConfigured as error:
                if self._stamp is None:
                    raise
                log.error("sources.not_read", why=error.why)
            else:
                log.info("sources.read", sources=len(self._table))
            self._stamp = stamp or (0, 0, 0)
            return self._table


def read_sources(path: Path) -> dict[str, Source]:
    """Read the sources in a file, by name. Raises NotConfigured, which says what is wrong and where."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES)
        value: Any = tomllib.loads(raw.decode()) if path.suffix == ".toml" else json.loads(raw)
        return {each.source: each for each in _File.model_validate(value).sources}
    except OSError as error:
        raise _unusable(path, f"{error.strerror}.") from error
    except ValidationError as error:
        raise _unusable(path, first_error(error)) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"It is not {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}.") from error


def _unusable(path: Path, why: str) -> NotConfigured:
    return NotConfigured(
        f"The event sources file {path} cannot be used.", why, "Correct it, or unset KEYREPACK_EVENT_SOURCES_FILE."
    )


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _require_signature(source: Source, event: Event, body: bytes, signed: Signed) -> None:
    """Require a signature by any of the source's keys; Ed25519's verification takes the same time for all."""
    if signed.id != event.id:
        raise EventRejected("bad_signature", "Its header webhook-id is not its id.", "Sign it under its own id.")
    content = signed_content(signed.id, signed.timestamp, body)
    keys = [Ed25519PublicKey.from_public_bytes(read_public_key(key)) for key in source.keys]
    if not any(_is_by(key, signature, content) for key in keys for signature in signed.signatures):
        raise EventRejected(
            "bad_signature", f"No signature is by a key of {source.source}.", "Sign the bytes with a key it has."
        )


def _is_by(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
