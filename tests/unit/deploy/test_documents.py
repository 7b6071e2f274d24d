"""What the README claims is held by tests that are there, and names codes and settings that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from producers.signing import generate_key
from schemas.events import read_event
from workers.errors import Cause, UploadFault
from workers.events.sources import Sources
from workers.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
FOLDERS = {"u": "tests/unit", "a": "tests/acceptance"}
SHOWN = sorted(set(re.findall(r"`([ua])/([a-z_/]+\.py)::(test_\w+)`", README)))


def test_the_table_of_states_names_tests() -> None:
    """Each of its rows names one at least."""
    rows = README.split("| state, and cause |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []


@pytest.mark.parametrize(("folder", "file", "name"), SHOWN)
def test_a_test_that_is_named_is_there(folder: str, file: str, name: str) -> None:
    """In the file that is named."""
    assert f"def {name}(" in (ROOT / FOLDERS[folder] / file).read_text()


def test_settings_that_are_named_are_there() -> None:
    """By the name of their environment variable."""
    known = {f"KEYREPACK_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"`(KEYREPACK_[A-Z_]+)`", README)) <= known


def test_every_cause_has_its_code_in_the_table_of_trouble() -> None:
    """Why a main key cannot be used, and what is wrong with an upload."""
    trouble = README.split("## Trouble, by code")[1].split("\n## ")[0]
    codes = {f"main_key_{cause}" for cause in Cause} | {f"upload_{fault}" for fault in UploadFault}
    assert {code for code in codes if f"`{code}`" not in trouble} == set()


def test_the_example_of_a_signed_event_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as it stands, with a key and a sources file of its own: the receiver knows who said it."""
    example = next(
        code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "webhook-signature" in code
    )
    pair, producer = generate_key(), MagicMock()
    (tmp_path / "console.key").write_text(pair.secret + "\n")
    source = {"source": "/console", "keys": [pair.public], "workspaces": ["acme"], "types": ["main_key.replaced"]}
    (tmp_path / "sources.json").write_text(json.dumps({"sources": [source]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kombu.Connection", MagicMock())
    monkeypatch.setattr("kombu.Producer", producer)
    exec(example, {})
    (body,), sent = producer.return_value.publish.call_args
    sender = Sources(tmp_path / "sources.json").verify(read_event(body), body, sent["headers"])
    assert (sender.source.source, sent["routing_key"]) == ("/console", "main_key.replaced")
