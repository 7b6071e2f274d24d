"""The platform's own key: a private, durable file, closed where it is not as it must be."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import traceback
from pathlib import Path

import pytest

from schemas.keys import MainKeyUri
from workers.errors import NotConfigured, WrapRefused
from workers.kms.local.managed import ManagedKms, create_managed_key_file, rotate_managed_key_file

URI = MainKeyUri.parse("managed:")
MATERIAL = bytes(range(32))
SECRET = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="
GOOD = f"g1 {SECRET}\n"


def generation(path: Path | None) -> str | None:
    return asyncio.run(ManagedKms(path).main_key(URI).describe()).generation


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_new_file_is_private_and_serves(tmp_path: Path) -> None:
    """A created file has mode 0600 whatever the umask, and its one generation is in force."""
    before = os.umask(0)
    try:
        made = create_managed_key_file(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert generation(tmp_path / "key") == made


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """Creating a file that exists is refused, and leaves it as it was."""
    create_managed_key_file(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(FileExistsError):
        create_managed_key_file(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_creating_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content and folder are flushed to the disk, content first: nothing may depend on a key that a crash can take."""
    flushed: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    create_managed_key_file(tmp_path / "key")
    rotate_managed_key_file(tmp_path / "key")
    assert flushed == [False, True, False, True]


def test_a_rotation_appends(tmp_path: Path) -> None:
    """After a rotation the new generation wraps, the old one opens, the file stays private and nothing else is left."""
    path = tmp_path / "key"
    create_managed_key_file(path)
    kms = ManagedKms(path)
    key = kms.main_key(URI)

    async def play() -> None:
        old = await key.wrap(MATERIAL, {})
        made = rotate_managed_key_file(path)
        new = await key.wrap(MATERIAL, {})
        assert new.generation == made != old.generation
        assert (await key.unwrap(old.blob, {})).material == MATERIAL

    asyncio.run(play())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_file_without_a_last_newline_is_rotated(tmp_path: Path) -> None:
    """A hand-written file that ends without a newline gains a line of its own."""
    path = write(tmp_path / "key", GOOD.rstrip())
    assert generation(path) == "g1"
    assert rotate_managed_key_file(path) == generation(path)


def test_rotations_at_once_lose_no_generation(tmp_path: Path) -> None:
    """Eight rotations at the same time leave eight new generations."""
    path = tmp_path / "key"
    create_managed_key_file(path)
    threads = [threading.Thread(target=rotate_managed_key_file, args=[path]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in path.read_text().splitlines() if not line.startswith("#")]) == 9


def test_a_rotation_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in mid-rotation leaves the old file, and no half-written one."""
    path = tmp_path / "key"
    create_managed_key_file(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rotate_managed_key_file(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644, 0o666, 0o777])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Any permission of group or others closes the provider, and stops a rotation."""
    path = write(tmp_path / "key", GOOD, mode)
    with pytest.raises(NotConfigured, match="chmod 600"):
        generation(path)
    with pytest.raises(NotConfigured):
        rotate_managed_key_file(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but a remark\n",
        "g1\n",
        f"g1{SECRET}\n",
        "g1 QUJD\n",
        f"g1 {SECRET[:-1]}\n",
        f"g1 {SECRET}AAAA\n",
        f"g1 {SECRET} more\n",
        f"g/1 {SECRET}\n",
        f"{'g' * 65} {SECRET}\n",
        f"{GOOD}{GOOD}",
        f"{GOOD}rubbish\n",
        "\xff\xfe",
    ],
)
def test_a_malformed_file_is_refused_whole(tmp_path: Path, text: str) -> None:
    """One wrong line closes the provider: half a key file is no key file. What stands in it never shows (R10)."""
    with pytest.raises(NotConfigured) as caught:
        generation(write(tmp_path / "key", text))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    assert SECRET[:20] not in shown


@pytest.mark.parametrize("place", ["missing", "folder", "none"])
def test_without_a_file_it_is_closed(tmp_path: Path, place: str) -> None:
    """No file, a folder in its place or no setting: closed, with the remedy."""
    path = {"missing": tmp_path / "no", "folder": tmp_path, "none": None}[place]
    with pytest.raises(NotConfigured, match="KEYREPACK_MANAGED_KEY_FILE"):
        generation(path)


def test_every_operation_is_closed(tmp_path: Path) -> None:
    """Without its file nothing of `managed:` works, and all of it works once the file is there."""
    kms = ManagedKms(tmp_path / "key")
    key = kms.main_key(URI)

    async def play() -> None:
        for call in (key.describe(), key.generate({}), key.wrap(MATERIAL, {}), key.unwrap(b"", {})):
            with pytest.raises(NotConfigured):
                await call
        create_managed_key_file(tmp_path / "key")
        await key.describe()

    asyncio.run(play())


def test_what_happens_to_the_file_is_noticed(tmp_path: Path) -> None:
    """A file that is replaced, opened to others or taken away counts from the next call on."""
    path = write(tmp_path / "key", GOOD)
    kms = ManagedKms(path)
    key = kms.main_key(URI)

    async def play() -> None:
        wrap = await key.wrap(MATERIAL, {})
        path.chmod(0o644)
        with pytest.raises(NotConfigured):
            await key.describe()
        path.chmod(0o600)
        await key.describe()
        path.unlink()
        with pytest.raises(NotConfigured):
            await key.unwrap(wrap.blob, {})
        create_managed_key_file(path)
        with pytest.raises(WrapRefused):
            await key.unwrap(wrap.blob, {})
        path.unlink()
        write(path, GOOD)
        assert (await key.unwrap(wrap.blob, {})).material == MATERIAL

    asyncio.run(play())


def test_a_link_to_the_file_serves(tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links: what counts is the file they lead to."""
    real = write(tmp_path / "real", GOOD)
    link = tmp_path / "key"
    link.symlink_to(real)
    assert generation(link) == "g1"
    assert rotate_managed_key_file(link) == generation(link) == generation(real)
    assert link.is_symlink()
    real.chmod(0o644)
    with pytest.raises(NotConfigured):
        generation(link)


def test_remarks_and_empty_lines_say_nothing(tmp_path: Path) -> None:
    """Lines that are empty or begin with # are skipped; the last key wraps."""
    path = write(tmp_path / "key", f"# one\n\n{GOOD}\n# two\ng2 {SECRET[:-2]}E=\n\n")
    assert generation(path) == "g2"


def test_reprs_show_no_secret(tmp_path: Path) -> None:
    """Neither provider nor key nor what they read shows a secret (R10)."""
    kms = ManagedKms(write(tmp_path / "key", GOOD))
    key = kms.main_key(URI)
    asyncio.run(key.describe())
    shown = repr(kms) + repr(key) + repr(kms.soft_key("describe"))
    assert SECRET[:10] not in shown
    assert "ABCDEFGHIJ" not in shown


def test_only_itself_is_rewrapped(tmp_path: Path) -> None:
    """`managed:` takes no wrap of another main key."""
    key = ManagedKms(tmp_path / "key").main_key(URI)
    other = MainKeyUri.parse("memory:a")
    assert not key.can_rewrap_from(other)
    with pytest.raises(ValueError, match="does not rewrap"):
        asyncio.run(key.rewrap(b"", {}, other))
