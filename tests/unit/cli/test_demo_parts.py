"""Parts of the demo that lie before its processes: sums, interruptions, the witness, the reader."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from schemas.states import Mode
from tests.unit.cli.conftest import Keyrepack
from workers.cli.demo.follow import _added, _at_least
from workers.cli.demo.interruption import Interruption
from workers.cli.demo.reader import Reader
from workers.cli.demo.rewrap_counter import count_rewraps, rewrapped_twice, rewraps_below_wrapping_keys
from workers.cli.demo.story import _sizes
from workers.keyring.keyring import Keyring
from workers.monitoring.progress import RUNNING, StageView, outline


@pytest.mark.parametrize("data_keys", [400, 5_000, 99_999, 100_000, 1_000_001])
def test_the_environments_together_have_the_keys_asked_for(data_keys: int) -> None:
    """What does not divide is not lost."""
    assert sum(_sizes(data_keys)) == data_keys


def test_outlines_of_several_repacks_add_up() -> None:
    """Stage by stage."""
    one = outline(Mode.DEEP, {"wrapping": {1: 24}, "data": {1: 5, 2: 100}})
    assert [(stage.name, stage.expected) for stage in _added([one, one])] == [
        ("move", 58), ("renew 1", 200), ("shred 1", 48),
    ]  # fmt: skip


def test_a_stage_is_not_done_before_every_repack_has_come_to_it() -> None:
    """One of two repacks has moved: half of the move is done."""
    whole = _added([outline(Mode.SHALLOW, {"wrapping": {1: 10}})] * 2)
    done = StageView(stage=whole[0].stage, level=1, state="done", expected=10, seen=10, rate=5.0, shards=1)
    view = _at_least([done], whole)[0]
    assert (view.state, view.expected, view.fraction, view.seconds_left) == (RUNNING, 20, 0.5, 2)


def test_a_signal_interrupts_and_leaves_a_mark() -> None:
    """A finalizer may swallow the one; the other stays."""
    interruption = Interruption()
    with interruption.watched():
        interruption.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_the_witness_counts_what_the_engine_does_not_tell_it(moving: Keyrepack) -> None:
    """Every rewrap once; a second one of a key by the same repack is seen."""
    services = moving.services()
    count_rewraps(services.database)
    moving.work()
    assert rewraps_below_wrapping_keys(services.database) == 50
    assert rewrapped_twice(services.database) == 0
    with services.database.write() as connection:
        connection.execute(text("UPDATE data_keys SET parent_version = parent_version WHERE parent IS NOT NULL"))
    assert rewrapped_twice(services.database) == 50
    services.close()


def test_the_reader_counts_what_it_reads_and_what_fails(seeded: Keyrepack, tmp_path: Path) -> None:
    """A key that opens to other bytes is a failure, and so is one that does not open."""
    services = seeded.services()
    keyring = Keyring(services)
    parent = keyring.create_wrapping_key("acme/production")
    key = keyring.create_data_key("acme/production", parent)
    known = {"acme/production": {"keys": [str(key.key_id)], "parents": [str(parent)]}}
    report = tmp_path / "counts.json"
    reader = Reader(keyring, known, report)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    reader.run(stop)
    assert reader.counts.failures == 0
    assert reader.counts.unwrapped > reader.counts.created > 0
    assert json.loads(report.read_text())["unwrapped"] == reader.counts.unwrapped
    reader._born[key.key_id] = hashlib.sha256(b"another").digest()
    reader._attempt(reader._unwrap, key.key_id)
    assert reader.counts.failures == 1
    assert "opens to other bytes" in reader.counts.last_failure
    services.close()


def test_the_demo_does_not_run_in_a_folder_that_is_in_use(bare: Keyrepack) -> None:
    """What is there is not its own."""
    (bare.folder / "mine").touch()
    answer = bare("demo", "--data-dir", str(bare.folder), "--json")
    assert answer.status == 1
    assert "The folder is not empty." in answer.err
    assert (bare.folder / "mine").exists()


def test_a_demo_of_too_few_keys_is_refused(bare: Keyrepack) -> None:
    """There would be nothing to kill a worker in."""
    assert bare("demo", "--data-keys", "10").status == 2
