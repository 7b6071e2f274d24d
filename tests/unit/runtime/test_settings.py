"""Settings: from the environment and from files, each wrong value named, all of them in one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.cli.application import run
from workers.cli.settings_table import as_markdown, list_settings
from workers.runtime.settings import Settings

ROOT = Path(__file__).parents[3]
URL = "postgresql+psycopg://app:hunter2@database/keyrepack"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets, as an orchestrator mounts it."""
    monkeypatch.setenv("KEYREPACK_SECRETS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["KEYREPACK_DATABASE_URL", "keyrepack_database_url"])
def test_a_value_comes_from_a_file(secrets: Path, name: str) -> None:
    """A file named as the variable holds its value; the line's end does not belong to it."""
    (secrets / name).write_text(URL + "\n")
    assert Settings().database_url.get_secret_value() == URL


def test_the_environment_wins(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a file of the same name."""
    (secrets / "keyrepack_database_url").write_text(URL)
    monkeypatch.setenv("KEYREPACK_DATABASE_URL", "sqlite:///here.db")
    assert Settings().database_url.get_secret_value() == "sqlite:///here.db"


def test_a_folder_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mount that failed must not leave a program on its defaults."""
    monkeypatch.setenv("KEYREPACK_SECRETS_DIR", "/nowhere/at/all")
    assert run(["environment", "list"]) == 1
    told = capsys.readouterr().err
    assert "KEYREPACK_SECRETS_DIR" in told
    assert "/nowhere/at/all" in told


def test_a_wrong_value_in_a_file_is_not_repeated(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R10: it may be a password in the wrong file; the variable and what would be right are named."""
    (secrets / "keyrepack_batch_size").write_text("hunter2")
    assert run(["environment", "list"]) == 1
    told = capsys.readouterr().err
    assert "KEYREPACK_BATCH_SIZE" in told
    assert "hunter2" not in told


def test_the_table_shows_no_value_that_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """R10: it tells what a setting is, never what it is here."""
    monkeypatch.setenv("KEYREPACK_DATABASE_URL", URL)
    assert run(["settings"]) == 0
    assert "hunter2" not in capsys.readouterr().out


def test_every_setting_has_a_sentence_and_the_page_is_the_codes() -> None:
    """deploy/docs/settings.md is what `keyrepack settings --markdown` prints."""
    rows = list_settings()
    assert {row.variable for row in rows} == {f"KEYREPACK_{name.upper()}" for name in Settings.model_fields}
    assert [row.variable for row in rows if not row.meaning.endswith(".")] == []
    assert (ROOT / "deploy" / "docs" / "settings.md").read_text() == as_markdown(rows), "write it anew"
