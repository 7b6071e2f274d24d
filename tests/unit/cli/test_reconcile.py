"""audit export and reconcile, as typed after a restore."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Keyrepack


@pytest.fixture
def restored(seeded: Keyrepack) -> Keyrepack:
    """The database of before a rotation that a repack followed; what was kept elsewhere is in audit.jsonl."""
    path = seeded.folder / "keyrepack.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, seeded.folder / "backup")
    seeded.done("managed-key", "rotate")
    seeded.done("main-key", "replace", "acme/production", "managed:")
    seeded.work()
    assert seeded("audit", "export", "--file", str(_witness(seeded))).status == 0
    for file in seeded.folder.glob("keyrepack.db*"):
        file.unlink()
    shutil.copy(seeded.folder / "backup", path)
    return seeded


def _witness(keyrepack: Keyrepack) -> Path:
    return keyrepack.folder / "audit.jsonl"


def test_an_export_is_every_record_a_line(seeded: Keyrepack) -> None:
    """From a record on, or from the beginning; a file is added to."""
    lines = seeded("audit", "export").out.splitlines()
    seqs = [json.loads(line)["seq"] for line in lines]
    assert seqs == list(range(1, len(lines) + 1))
    file = str(_witness(seeded))
    assert f"the last one is {len(lines)}" in seeded("audit", "export", "--file", file).err
    assert "0 records" in seeded("audit", "export", "--after", str(len(lines)), "--file", file).err
    assert _witness(seeded).read_text().splitlines() == lines


def test_a_restore_is_reconciled(restored: Keyrepack) -> None:
    """A dry run says what would be done and changes nothing; then it is begun, worked, and found in order."""
    witness = ("--witness", str(_witness(restored)))
    told = restored("reconcile", *witness, "--dry-run", "--json")
    assert told.status == 3
    (report,) = told.document["environments"]
    assert (report["outcome"], [step["need"] for step in report["steps"]]) == ("under_way", ["repack"])
    assert "lost to this database" in told.document["lineage"]
    assert restored.done("repack", "list")["repacks"] == []
    begun = restored("reconcile", "acme/production", *witness)
    assert begun.status == 3
    assert "was started" in begun.out
    restored.work()
    assert restored.done("reconcile", *witness)["environments"][0]["outcome"] == "in_order"


def test_without_a_witness_it_says_so(restored: Keyrepack) -> None:
    """What the database says of itself, and that this is all."""
    document = restored.done("reconcile")
    assert "is not known" in document["lineage"]


def test_what_does_not_open_is_named(restored: Keyrepack) -> None:
    """Exit status 1; every key in the file that was asked for, the first ones in the answer."""
    (restored.folder / "managed.key").unlink()
    restored.done("managed-key", "create")
    names = restored.folder / "names.jsonl"
    answer = restored("reconcile", "--names", str(names))
    assert answer.status == 1
    assert "key that does not open" in answer.out
    assert len(names.read_text().splitlines()) == 2 + 3 + 50


def test_a_file_that_is_no_witness_is_refused(restored: Keyrepack) -> None:
    """By its line; nothing is changed."""
    _witness(restored).write_text('{"a": 1}\n{"b": 2}\n')
    answer = restored("reconcile", "--witness", str(_witness(restored)), "--json")
    assert (answer.status, answer.error["code"]) == (1, "witness_broken")


def test_a_worker_says_when_its_schema_is_missing(bare: Keyrepack) -> None:
    """Before it takes a message."""
    database = sqlite3.connect(bare.folder / "keyrepack.db")
    database.close()
    answer = bare("worker")
    assert answer.status == 1
    assert "keyrepack migrate" in answer.err
