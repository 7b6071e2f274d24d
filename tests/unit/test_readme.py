"""What the README claims is held by tests that are there, and names codes and settings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers.errors import Cause, UploadFault
from workers.settings import Settings

ROOT = Path(__file__).parents[2]
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
