"""user add, list, password, remove; and a dashboard that others could listen in on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Keyrepack
from workers.dashboard.auth.users import Role, Users


@pytest.fixture
def users(bare: Keyrepack, monkeypatch: pytest.MonkeyPatch) -> Users:
    """A users file that is not there yet."""
    path = bare.folder / "users.json"
    monkeypatch.setenv("KEYREPACK_USERS_FILE", str(path))
    return Users(path)


def test_users_come_and_go(bare: Keyrepack, users: Users) -> None:
    """Each secret is shown once; the list shows none."""
    ada = bare.done("user", "add", "ada", "--role", "security")
    program = bare.done("user", "add", "reporter", "--role", "viewer", "--token")
    assert users.by_password("ada", ada["one_time_password"])
    found = users.by_token(program["token"])
    assert found is not None
    assert found.role == Role.VIEWER
    listed = bare.done("user", "list")["users"]
    assert [(one["name"], one["by"], one["new"]) for one in listed] == [
        ("ada", "password", True),
        ("reporter", "token", False),
    ]
    again = bare.done("user", "password", "ada")
    assert users.by_password("ada", ada["one_time_password"]) is None
    assert users.by_password("ada", again["one_time_password"])
    bare.done("user", "remove", "ada")
    assert list(users.table()) == ["reporter"]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("add", "ada", "--role", "root"), 2, "usage"),
        (("add", "reporter", "--role", "viewer"), 1, "already_there"),
        (("add", "a b", "--role", "viewer"), 2, "usage"),
        (("remove", "nobody"), 1, "not_found"),
        (("password", "reporter"), 1, "not_found"),
    ],
)
def test_what_is_no_user_is_refused(
    bare: Keyrepack, users: Users, arguments: tuple[str, ...], status: int, code: str
) -> None:
    """And nothing is written."""
    users.add_with_token("reporter", Role.VIEWER)
    answer = bare("user", *arguments, "--json")
    assert (answer.status, answer.error["code"]) == (status, code)
    assert list(users.table()) == ["reporter"]


def test_a_dashboard_that_others_could_listen_in_on_is_not_started(
    bare: Keyrepack, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passwords travel to it: from other machines over TLS alone. No user is made either."""
    monkeypatch.setenv("KEYREPACK_DASHBOARD_HOST", "0.0.0.0")
    answer = bare("dashboard")
    assert answer.status == 1
    assert "KEYREPACK_DASHBOARD_URL is not https" in answer.err
    assert not (bare.folder / "users.json").exists()
    monkeypatch.setenv("KEYREPACK_DASHBOARD_URL", "http://keys.example.com")
    assert "Wrong settings: KEYREPACK_DASHBOARD_URL." in bare("dashboard").err


def test_a_port_that_is_taken_is_named(keyrepack: Keyrepack, users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting that changes it."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("KEYREPACK_DASHBOARD_PORT", str(taken.getsockname()[1]))
        answer = keyrepack("dashboard")
    assert answer.status == 1
    assert "KEYREPACK_DASHBOARD_PORT" in answer.err
    assert "one-time password" in answer.out  # it was the first start
    assert Path(keyrepack.folder / "users.json").stat().st_mode & 0o777 == 0o600
