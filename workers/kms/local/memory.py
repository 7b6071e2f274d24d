"""Main keys that live in this process and die with it: `memory:<name>`. For tests; the cipher is real.

A key comes into being when it is first named. Faults are switched on by name and hold for every call to that key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from schemas.keys import KEY_BYTES, MainKeyUri
from workers.errors import Cause, KmsRefused, KmsThrottled, KmsUnreachable
from workers.kms.local.soft import RandomBytes, SoftKey
from workers.kms.port import Context, Description, Opened, RootWrap

FOREVER = -1
"""As a number of times: until it is switched off."""

Hook = Callable[[str, str], Awaitable[None]]
"""Awaited with operation and key name before the operation takes effect. What it raises, the caller gets."""


@dataclass(slots=True, kw_only=True)
class _State:
    """What one key is like now."""

    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    refusal: Cause | None = None
    unanswered: int = 0
    throttled: int = 0
    hides_generation: bool = False


class MemoryKms:
    """Opens `memory:` main keys. `calls` counts by operation, refused and unanswered ones too."""

    scheme = "memory"
    is_remote = True

    def __init__(self, *, random_bytes: RandomBytes = os.urandom) -> None:
        self.calls: dict[str, int] = {}
        self._random_bytes = random_bytes
        self._states: dict[str, _State] = {}
        self._hooks: dict[str, Hook] = {}

    def main_key(self, uri: MainKeyUri) -> MemoryMainKey:
        """Return the key that `uri` names. Raises MalformedMainKeyUri."""
        return MemoryMainKey(self, MainKeyUri.parse(str(uri)), self._random_bytes)

    async def close(self) -> None:
        """Do nothing: no connection is held."""

    def rotate(self, name: str) -> str:
        """Add a generation, and wrap by it from now on; returns it. Raises KmsRefused for a deleted key."""
        state = self._state(name)
        if not state.secrets:
            raise KmsRefused(main_key=f"memory:{name}", cause=Cause.DELETED, operation="rotate")
        return self._add_generation(name, state)

    def set_state(self, name: str, cause: Cause | None) -> None:
        """Refuse every call with `cause` (UNREACHABLE and THROTTLED give no answer); None serves again."""
        self._state(name).refusal = cause

    def unreachable(self, name: str, times: int = FOREVER) -> None:
        """Give no answer to the next `times` calls; 0 answers again."""
        self._state(name).unanswered = times

    def throttle(self, name: str, times: int = FOREVER) -> None:
        """Answer the next `times` calls with "too fast"; 0 answers again."""
        self._state(name).throttled = times

    def delete(self, name: str) -> None:
        """Delete the key and its material, for good."""
        self._state(name).secrets.clear()

    def hide_generation(self, name: str, *, hidden: bool = True) -> None:
        """Report no generation, as some KMSs do not."""
        self._state(name).hides_generation = hidden

    def before(self, operation: str, hook: Hook | None) -> None:
        """Await `hook` before every `operation` (describe, generate, wrap, unwrap, rewrap); None takes it off."""
        if hook is None:
            self._hooks.pop(operation, None)
        else:
            self._hooks[operation] = hook

    async def enter(self, operation: str, name: str) -> None:
        """Count a call, and let happen what was switched on."""
        self.calls[operation] = self.calls.get(operation, 0) + 1
        hook = self._hooks.get(operation)
        if hook is not None:
            await hook(operation, name)
        self.require_usable(operation, name)

    def require_usable(self, operation: str, name: str) -> None:
        """Raise what was switched on for this key. Counted faults are used up by one."""
        state, main_key = self._state(name), f"memory:{name}"
        if _used_up_one(state, "unanswered") or state.refusal is Cause.UNREACHABLE:
            raise KmsUnreachable(main_key=main_key, operation=operation)
        if _used_up_one(state, "throttled") or state.refusal is Cause.THROTTLED:
            raise KmsThrottled(main_key=main_key, operation=operation)
        refusal = state.refusal if state.secrets else Cause.DELETED
        if refusal is not None:
            raise KmsRefused(main_key=main_key, cause=refusal, operation=operation)

    def soft_key(self, name: str) -> SoftKey:
        """Return the key's secrets as they are now."""
        secrets = dict(self._state(name).secrets)
        return SoftKey(uri=MainKeyUri("memory", name), current=list(secrets)[-1], secrets=secrets)

    def told(self, name: str, generation: str | None) -> str | None:
        """Return the generation, unless it is hidden."""
        return None if self._state(name).hides_generation else generation

    def _state(self, name: str) -> _State:
        state = self._states.get(name)
        if state is None:  # whole before another thread sees it: without a secret it would be a deleted one
            fresh = _State()
            self._add_generation(name, fresh)
            state = self._states.setdefault(name, fresh)
        return state

    def _add_generation(self, name: str, state: _State) -> str:
        # Counted, not random, so that a test's own source of randomness cannot make two alike.
        generation = hashlib.sha256(f"{name}/{len(state.secrets)}".encode()).hexdigest()[:12]
        state.secrets[generation] = self._random_bytes(KEY_BYTES)
        return generation


class MemoryMainKey:
    """One key in memory."""

    def __init__(self, kms: MemoryKms, uri: MainKeyUri, random_bytes: RandomBytes) -> None:
        self.uri = uri
        self._kms, self._random_bytes = kms, random_bytes

    def __repr__(self) -> str:
        return f"MemoryMainKey({self.uri})"

    async def describe(self) -> Description:
        """Return the key's generation now."""
        await self._kms.enter("describe", self.uri.name)
        current = self._kms.soft_key(self.uri.name).current
        return Description(main_key=self.uri, generation=self._told(current))

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """Fresh material and its wrap."""
        await self._kms.enter("generate", self.uri.name)
        material = self._random_bytes(KEY_BYTES)
        wrap = self._wrapped(material, context)
        return Opened(material=material, generation=wrap.generation), wrap

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """Wrap `material` by the current generation."""
        await self._kms.enter("wrap", self.uri.name)
        return self._wrapped(material, context)

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of any generation."""
        await self._kms.enter("unwrap", self.uri.name)
        opened = self._kms.soft_key(self.uri.name).open(blob, context)
        return Opened(material=opened.material, generation=self._told(opened.generation))

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """Return True if `source` is in the same memory."""
        return source.scheme == MemoryKms.scheme

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """Move a wrap of another key in memory under this one. Either key may refuse; the error names which."""
        await self._kms.enter("rewrap", self.uri.name)
        if source != self.uri:
            self._kms.require_usable("rewrap", source.name)
        return self._wrapped(self._kms.soft_key(source.name).open(blob, context).material, context)

    def _wrapped(self, material: bytes, context: Context) -> RootWrap:
        wrap = self._kms.soft_key(self.uri.name).wrap(material, context, self._random_bytes)
        return RootWrap(blob=wrap.blob, generation=self._told(wrap.generation))

    def _told(self, generation: str | None) -> str | None:
        return self._kms.told(self.uri.name, generation)


def _used_up_one(state: _State, fault: str) -> bool:
    """Return True if a counted fault applies to this call."""
    left: int = getattr(state, fault)
    if left > 0:
        setattr(state, fault, left - 1)
    return left != 0
