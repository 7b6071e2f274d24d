"""Sessions, kept on the server: a browser holds 32 random bytes and nothing else, and we hold their hash.

They live in this process: a restart signs all users out, and a dashboard is one process (see the ADR).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.dashboard.auth.users import Role

ID_BYTES = 32
MOST = 10_000
"""Sessions kept at most; the one that was idle longest is dropped."""


@dataclass(slots=True, kw_only=True)
class Session:
    """A user who is signed in. `role` None: as the users file says at each request."""

    user: str
    role: Role | None
    must_choose: bool  # signed in by a one-time password: another one is to be chosen first
    csrf: str = field(repr=False)
    key: str = field(repr=False)  # hash of what the browser holds
    began_at: float
    used_at: float
    flash: str = ""  # said on the next page, once

    def is_token(self, token: str) -> bool:
        """Return True if a form or a header came from a page of this session."""
        return hmac.compare_digest(token.encode(), self.csrf.encode())


class Sessions:
    """All of them. Safe under threads; `clock` is monotonic."""

    def __init__(self, *, idle: float, longest: float, clock: Callable[[], float]) -> None:
        self._idle, self._longest, self._clock = idle, longest, clock
        self._by_key: dict[str, Session] = {}
        self._lock = threading.Lock()

    def begin(self, user: str, *, role: Role | None = None, must_choose: bool = False) -> tuple[str, Session]:
        """Begin a session under an id that was never seen before; return (what the browser gets, the session)."""
        identifier, now = secrets.token_urlsafe(ID_BYTES), self._clock()
        session = Session(
            user=user,
            role=role,
            must_choose=must_choose,
            csrf=secrets.token_urlsafe(ID_BYTES),
            key=_key(identifier),
            began_at=now,
            used_at=now,
        )
        with self._lock:
            self._forget_ended(now)
            while len(self._by_key) >= MOST:
                del self._by_key[min(self._by_key, key=lambda key: self._by_key[key].used_at)]
            self._by_key[session.key] = session
        return identifier, session

    def find(self, identifier: str, *, touch: bool = True) -> Session | None:
        """Find the session of what a browser sent. `touch`: it was used, and lives on."""
        with self._lock:
            session = self._by_key.get(_key(identifier))
            if session is None or self._has_ended(session, self._clock()):
                return None
            if touch:
                session.used_at = self._clock()
            return session

    def lives(self, session: Session) -> bool:
        """Return True if the session has not ended meanwhile."""
        with self._lock:
            return session.key in self._by_key and not self._has_ended(session, self._clock())

    def end(self, session: Session) -> None:
        """Sign out: what the browser holds opens nothing any more."""
        with self._lock:
            self._by_key.pop(session.key, None)

    def end_all_of(self, user: str) -> None:
        """Sign a user out everywhere."""
        with self._lock:
            self._by_key = {key: session for key, session in self._by_key.items() if session.user != user}

    def _has_ended(self, session: Session, now: float) -> bool:
        return now - session.used_at > self._idle or now - session.began_at > self._longest

    def _forget_ended(self, now: float) -> None:
        self._by_key = {key: one for key, one in self._by_key.items() if not self._has_ended(one, now)}


def _key(identifier: str) -> str:
    return hashlib.sha256(identifier.encode()).hexdigest()
