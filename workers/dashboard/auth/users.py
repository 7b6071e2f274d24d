"""Users of the dashboard and their roles: the users file, followed as it changes, readable by its owner alone.

    {"users": [{"name": "ada", "role": "security", "password": "scrypt$…"},
               {"name": "console", "role": "operator", "token": "sha256:…"}]}

`one_time`: the password only opens the page on which another one is chosen.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.events import first_error
from workers.dashboard.auth.passwords import (
    dummy_hash,
    hash_password,
    hash_token,
    is_outdated,
    is_password,
    make_token,
    one_time_password,
)
from workers.errors import AlreadyThere, NotConfigured, NotFound
from workers.kms.local.private_file import read_private, stamp
from workers.runtime.logs import log

FIRST_USER = "admin"
MAX_FILE_BYTES = 4 * 1024 * 1024

CLOSED, REMEDY = "The dashboard is closed: users file", "Make it with `keyrepack user add NAME --role security`."

_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
Name = Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]


def is_name(text: str) -> bool:
    """Return True if a user may have that name."""
    return _NAME.fullmatch(text) is not None


class Role(StrEnum):
    """What a user may do. Each role may do what the one before it may."""

    VIEWER = "viewer"  # see everything
    OPERATOR = "operator"  # pause, resume, stop, retry, replace, lock, replay, discard
    SECURITY = "security"  # abort, unlock, replace within the interval

    def may(self, needed: Role) -> bool:
        """Return True if this role is enough where `needed` is asked for."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class User(BaseModel):
    """A user with a password, or a program with a token."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    role: Role
    password: str | None = Field(default=None, repr=False)
    token: str | None = Field(default=None, repr=False)
    one_time: bool = False

    @model_validator(mode="after")
    def _can_sign_in(self) -> User:
        if (self.password is None) == (self.token is None):
            raise ValueError(f"{self.name} needs a password or a token, one of the two")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    users: tuple[User, ...]

    @model_validator(mode="after")
    def _names_each_once(self) -> _File:
        names = [user.name for user in self.users]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there more than once")
        return self


class Users:
    """The users of a file. Safe under threads and beside other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table: Mapping[str, User] = {}
        self._stamp: tuple[int, ...] | None = None
        self._lock = threading.Lock()

    def table(self) -> Mapping[str, User]:
        """Return the users by name, as the file says now. Raises NotConfigured if it cannot be read: closed."""
        with self._lock:
            now = stamp(self._path, closed=CLOSED, remedy=REMEDY)
            if now != self._stamp:
                self._table, self._stamp = read_users(self._path), now
                log.info("users.read", users=len(self._table))
            return self._table

    def find(self, name: str) -> User | None:
        """Find a user by name."""
        return self.table().get(name)

    def by_password(self, name: str, password: str) -> User | None:
        """Find the user with this password; it takes as long for a name that does not exist."""
        user = self.find(name)
        if user is None or user.password is None:
            is_password(password, dummy_hash())
            return None
        if not is_password(password, user.password):
            return None
        if is_outdated(user.password):
            self._renew_hash(user, password)
        return user

    def _renew_hash(self, user: User, password: str) -> None:
        """Hash a password anew that matched the hash of an earlier release; a file that cannot be written stays."""
        try:
            self._set_password(user.name, password, one_time=user.one_time)
        except OSError as error:
            log.warning("users.hash_not_renewed", error=type(error).__name__)

    def by_token(self, token: str) -> User | None:
        """Find the program with this token."""
        kept = hash_token(token)
        return next((user for user in self.table().values() if user.token == kept), None)

    def add_with_password(self, name: str, role: Role) -> str:
        """Add a user; return the one-time password. Raises AlreadyThere."""
        password = one_time_password()
        self._add(User(name=name, role=role, password=hash_password(password), one_time=True))
        return password

    def add_with_token(self, name: str, role: Role) -> str:
        """Add a program; return its token. Raises AlreadyThere."""
        token = make_token()
        self._add(User(name=name, role=role, token=hash_token(token)))
        return token

    def renew_password(self, name: str) -> str:
        """Give a user another one-time password. Raises NotFound."""
        password = one_time_password()
        self._set_password(name, password, one_time=True)
        return password

    def choose_password(self, name: str, password: str) -> None:
        """Set the password that a user chose. Raises NotFound."""
        self._set_password(name, password, one_time=False)

    def remove(self, name: str) -> None:
        """Take a user out; sessions end at their next request. Raises NotFound."""
        with self._changing() as users:
            if users.pop(name, None) is None:
                raise NotFound("user", name, "List them with `keyrepack user list`.")

    def _add(self, user: User) -> None:
        with self._changing() as users:
            if user.name in users:
                raise AlreadyThere("user", user.name)
            users[user.name] = user

    def _set_password(self, name: str, password: str, *, one_time: bool) -> None:
        with self._changing() as users:
            user = users.get(name)
            if user is None or user.password is None:
                raise NotFound("user with a password", name, "List them with `keyrepack user list`.")
            users[name] = user.model_copy(update={"password": hash_password(password), "one_time": one_time})

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, User]]:
        """Open the users to be changed; written at the end, one process after the other."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            users = read_users(self._path) if self._path.exists() else {}
            yield users
            _write(self._path, users)


def read_users(path: Path) -> dict[str, User]:
    """Read the users in a file, by name. Raises NotConfigured; what is in the file never shows (R10)."""
    content = read_private(path, max_bytes=MAX_FILE_BYTES, closed=CLOSED, remedy=REMEDY)
    try:
        found = _File.model_validate(json.loads(content))
    except ValidationError as error:
        raise NotConfigured(f"{CLOSED} {path}.", first_error(error), REMEDY) from None
    except (ValueError, RecursionError):
        raise NotConfigured(f"{CLOSED} {path}.", "It is not JSON.", REMEDY) from None
    return {user.name: user for user in found.users}


def first_start(path: Path) -> str | None:
    """Make the users file with one user in it, where there is none; that user's one-time password."""
    if path.exists():
        return None
    return Users(path).add_with_password(FIRST_USER, Role.SECURITY)


def _write(path: Path, users: Mapping[str, User]) -> None:
    """Whole or not at all, and never readable by others."""
    document = {"users": [user.model_dump(mode="json", exclude_defaults=True) for user in users.values()]}
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(document, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
