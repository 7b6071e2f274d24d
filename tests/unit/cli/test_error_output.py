"""Errors are one sentence of what, one of why and one of what to do; exit statuses are kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.cli.conftest import Keyrepack

HEAVY = {"sqlalchemy", "celery", "kombu", "moto", "botocore", "aioboto3", "alembic", "redis"}


def test_help_needs_no_library_of_the_engine() -> None:
    """`keyrepack --help` is quick: it imports none of the heavy libraries."""
    code = "import sys; from workers.cli import application; application.build(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    "command",
    [
        "up", "demo", "worker", "beat", "migrate", "doctor", "environment create", "environment list",
        "environment show", "seed", "main-key replace", "managed-key create", "managed-key rotate", "repack list",
        "repack show", "repack watch", "repack pause", "repack resume", "repack abort", "repack stop", "repack retry",
        "verify", "certificate", "audit verify", "events schema", "events publish", "events rejected", "kms-simulator",
    ],
)  # fmt: skip
def test_every_command_has_help(bare: Keyrepack, command: str) -> None:
    """Each command says in a sentence what it does."""
    answer = bare(*command.split(), "--help")
    assert answer.status == 0
    assert "Usage: keyrepack" in answer.out


def test_an_error_is_three_sentences_on_standard_error(keyrepack: Keyrepack) -> None:
    """What, why and what to do go to standard error; standard output stays empty."""
    answer = keyrepack("main-key", "replace", "acme/production", "nonsense")
    assert answer.status == 1
    assert answer.out == ""
    what, why, remedy = answer.err.splitlines()
    assert what == "error: 'nonsense' does not name a main key."
    assert why.startswith("  why: The form is managed: or aws-kms:arn:aws:kms:<region>")
    assert remedy == "  do: Correct the URI."


def test_with_json_an_error_is_an_object(keyrepack: Keyrepack) -> None:
    """A program reads code, what, why and remedy."""
    answer = keyrepack("repack", "show", "acme/nowhere", "--json")
    assert answer.status == 1
    assert answer.out == ""
    assert answer.error == {
        "code": "not_found",
        "what": "There is no environment acme/nowhere.",
        "why": "",
        "remedy": "List them with `keyrepack environment list`.",
    }


@pytest.mark.parametrize("arguments", [["bogus"], ["repack", "show"], ["seed", "a/b", "--data", "many"], ["repack"]])
def test_wrong_use_is_status_2(bare: Keyrepack, arguments: list[str]) -> None:
    """A command that is none, a missing argument, a number that is none."""
    assert bare(*arguments).status == 2


def test_wrong_use_with_json_is_an_object_too(bare: Keyrepack) -> None:
    """Even where the command was never reached."""
    answer = bare("repack", "show", "--json")
    assert (answer.status, answer.error["code"]) == (2, "usage")


def test_a_wrong_setting_is_named_and_its_value_is_not(bare: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, what is wrong and what it is; a value may be a secret."""
    monkeypatch.setenv("KEYREPACK_BATCH_SIZE", "hunter2")
    monkeypatch.setenv("KEYREPACK_LEASE_SECONDS", "-1")
    answer = bare("repack", "list")
    assert answer.status == 1
    assert "KEYREPACK_BATCH_SIZE: Input should be a valid integer" in answer.err
    assert "KEYREPACK_LEASE_SECONDS: Input should be greater than 0." in answer.err
    assert "Data keys rewrapped in one transaction." in answer.err
    assert "hunter2" not in answer.err


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_processes_refuse_a_wrong_setting_in_a_sentence(
    bare: Keyrepack, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Not with a traceback out of the depths of Celery."""
    monkeypatch.setenv("KEYREPACK_SWEEP_SECONDS", "soon")
    assert bare(command, "--json").status == 2  # it has no --json
    answer = bare(command)
    assert answer.status == 1
    assert "KEYREPACK_SWEEP_SECONDS" in answer.err


@pytest.mark.parametrize("url", ["garbage", "mysql://host/name", "foo://bar"])
def test_a_database_url_that_is_none_is_refused(bare: Keyrepack, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """With what it would have to look like."""
    monkeypatch.setenv("KEYREPACK_DATABASE_URL", url)
    answer = bare("repack", "list")
    assert answer.status == 1
    assert "Set KEYREPACK_DATABASE_URL to sqlite:///PATH or postgresql+psycopg://" in answer.err


def test_looking_at_a_database_that_is_not_there_makes_none(bare: Keyrepack) -> None:
    """A reading command leaves no empty file behind."""
    answer = bare("environment", "list")
    assert answer.status == 1
    assert "Run `keyrepack migrate`" in answer.err
    assert list(bare.folder.iterdir()) == []


def test_a_database_without_schema_is_told(bare: Keyrepack) -> None:
    """The remedy is the command that makes it."""
    (bare.folder / "keyrepack.db").touch()
    answer = bare("environment", "list")
    assert answer.status == 1
    assert "Its schema is not there yet" in answer.err


def test_debug_shows_the_traceback(keyrepack: Keyrepack) -> None:
    """Only who asks for it gets one."""
    answer = keyrepack("--debug", "repack", "show", "acme/nowhere")
    assert answer.status == 1
    assert "Traceback" in answer.err
