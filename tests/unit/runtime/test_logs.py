"""R10: no secret in a log, a traceback or a refused value."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from workers.runtime.logs import configure_logs, log
from workers.runtime.settings import Settings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """R10: an exception inside a function that holds a key is logged without what it held."""
    configure_logs(Settings(log_format=log_format))  # type: ignore[arg-type]
    secret = os.urandom(32)

    def unwrap_something(material: bytes) -> None:
        text = material.hex()
        raise ValueError(len(text))

    try:
        unwrap_something(secret)
    except ValueError:
        structlog.get_logger("keyrepack").exception("key.failed", key="id")
        logging.getLogger("celery").exception("task failed")
    shown = capsys.readouterr().err
    assert "key.failed" in shown
    assert "unwrap_something" in shown
    assert secret.hex() not in shown
    assert repr(secret)[2:10] not in shown


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is not logged."""
    configure_logs(Settings(log_level="warning"))
    log.info("shard.checkpointed")
    structlog.get_logger("keyrepack").warning("repack.blocked")
    shown = capsys.readouterr().err
    assert "repack.blocked" in shown
    assert "shard.checkpointed" not in shown
