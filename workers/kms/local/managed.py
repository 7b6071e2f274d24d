"""The platform's own main key, `managed:`: a file of secrets that only its owner can read.

One line a generation, oldest first, `<generation> <base64 of 32 bytes>`; the last line wraps, all of them open. Lines
that are empty or begin with `#` say nothing. Every host that works on `managed:` environments needs the same file: what
one wraps by a generation that another has not yet got does not open there.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from schemas.keys import KEY_BYTES, MANAGED, MainKeyUri
from workers.errors import NotConfigured
from workers.kms.local.private_file import read_private, stamp
from workers.kms.local.soft import MAX_GENERATION_LENGTH, SoftKey
from workers.kms.port import Context, Description, Opened, RootWrap

MODE = 0o600
MAX_FILE_BYTES = 1_000_000
"""Some ten thousand generations: a longer file is another file."""

_GENERATION_BYTES = 8
_LINE = re.compile(rf"(?P<generation>[A-Za-z0-9_.-]{{1,{MAX_GENERATION_LENGTH}}}) +(?P<secret>[A-Za-z0-9+/]{{43}}=)")
_CLOSED = "The platform's own main key is closed"
_REMEDY = "Make one with `keyrepack managed-key create`, or point KEYREPACK_MANAGED_KEY_FILE to it."


class ManagedKms:
    """Opens `managed:`. The file is read again whenever it changed. `calls` counts by operation."""

    scheme = "managed"
    is_remote = False

    def __init__(self, path: Path | None) -> None:
        self.calls: dict[str, int] = {}
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._key: SoftKey | None = None

    def main_key(self, uri: MainKeyUri) -> ManagedMainKey:
        """Return the platform's key. Raises MalformedMainKeyUri."""
        return ManagedMainKey(self, MainKeyUri.parse(str(uri)))

    async def close(self) -> None:
        """Forget what was read."""
        self._key, self._seen = None, ()

    def soft_key(self, operation: str) -> SoftKey:
        """Return the secrets in the file now. Raises NotConfigured without a file, or with one that is not as it must
        be.
        """
        self.calls[operation] = self.calls.get(operation, 0) + 1
        if self._path is None:
            raise NotConfigured(f"{_CLOSED}.", "No file is set.", _REMEDY)
        seen = stamp(self._path, closed=_CLOSED, remedy=_REMEDY)
        if self._key is None or seen != self._seen:
            self._key = _read(self._path)
            self._seen = seen
        return self._key


class ManagedMainKey:
    """The platform's own main key."""

    def __init__(self, kms: ManagedKms, uri: MainKeyUri) -> None:
        self.uri = uri
        self._kms = kms

    def __repr__(self) -> str:
        return f"ManagedMainKey({self.uri})"

    async def describe(self) -> Description:
        """Return the key's generation now."""
        return Description(main_key=self.uri, generation=self._kms.soft_key("describe").current)

    async def generate(self, context: Context) -> tuple[Opened, RootWrap]:
        """Fresh material and its wrap."""
        material = os.urandom(KEY_BYTES)
        wrap = self._kms.soft_key("generate").wrap(material, context, os.urandom)
        return Opened(material=material, generation=wrap.generation), wrap

    async def wrap(self, material: bytes, context: Context) -> RootWrap:
        """Wrap `material` by the current generation."""
        return self._kms.soft_key("wrap").wrap(material, context, os.urandom)

    async def unwrap(self, blob: bytes, context: Context) -> Opened:
        """Open a wrap of any generation in the file."""
        return self._kms.soft_key("unwrap").open(blob, context)

    def can_rewrap_from(self, source: MainKeyUri) -> bool:
        """Return True if `source` is this key, at an older generation."""
        return source == self.uri

    async def rewrap(self, blob: bytes, context: Context, source: MainKeyUri) -> RootWrap:
        """Move a wrap under the current generation."""
        if not self.can_rewrap_from(source):
            raise ValueError(f"{self.uri} does not rewrap from {source}.")
        key = self._kms.soft_key("rewrap")
        return key.wrap(key.open(blob, context).material, context, os.urandom)


def create_managed_key_file(path: Path) -> str:
    """Make the file, mode 0600, with one generation; returns it. Raises FileExistsError: a key is never overwritten."""
    generation, line = _fresh_line()
    with _locked_folder(path.parent) as folder:
        _write_durably(path, f"# keyrepack: the platform's own main key. Never share, never lose.\n{line}")
        os.fsync(folder)
    return generation


def managed_generations(path: Path) -> list[str]:
    """List the generations in the file, oldest first: the last one wraps. Raises NotConfigured."""
    return list(_read(path).secrets)


def rotate_managed_key_file(path: Path) -> str:
    """Append a generation, which wraps from now on; returns it. Replaced whole: a reader sees the old file or the new.

    Raises NotConfigured for a file that is not as it must be.
    """
    path = path.resolve()  # a link keeps leading to the file
    generation, line = _fresh_line()
    with _locked_folder(path.parent) as folder:
        _read(path)
        old = path.read_text("ascii")
        part = path.with_name(f".{path.name}.{generation}")
        try:
            _write_durably(part, old + ("" if old.endswith("\n") else "\n") + line)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        os.fsync(folder)
    return generation


def _fresh_line() -> tuple[str, str]:
    generation = secrets.token_hex(_GENERATION_BYTES)
    return generation, f"{generation} {base64.b64encode(os.urandom(KEY_BYTES)).decode()}\n"


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[int]:
    """Hold the folder, so that two rotations come one after the other; its descriptor makes a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_durably(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _read(path: Path) -> SoftKey:
    """Read the file's secrets. Raises NotConfigured; what is in the file never shows."""
    text = read_private(path, max_bytes=MAX_FILE_BYTES, closed=_CLOSED, remedy=_REMEDY)
    found = _parsed(path, text.decode("ascii", errors="replace"))
    return SoftKey(uri=MANAGED, current=list(found)[-1], secrets=found)


def _parsed(path: Path, text: str) -> dict[str, bytes]:
    """Parse the file: generation → secret, in the file's order."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or match["generation"] in found:
            raise _unusable(path, f"Line {number} is not `<generation> <base64 of {KEY_BYTES} bytes>`, each once.")
        found[match["generation"]] = base64.b64decode(match["secret"])
    if not found:
        raise _unusable(path, "There is no key in it.")
    return found


def _unusable(path: Path, why: str) -> NotConfigured:
    return NotConfigured(f"{_CLOSED}: {path}.", why, _REMEDY)
