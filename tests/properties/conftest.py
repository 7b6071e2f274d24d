"""Small batches and shards, so that a tree of a dozen keys meets every boundary; one profile for every run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.engine import Template
from workers.repack import move, planning, renew, shred

SMALL = ((move, "ROOTS_IN_BATCH", 2), (renew, "ROOTS_IN_BATCH", 2), (renew, "PARENTS_IN_BATCH", 2),
         (planning, "ROOTS_IN_SHARD", 3), (planning, "KEYS_IN_SHRED_SHARD", 2),
         (shred, "KEYS_IN_BATCH", 2))  # fmt: skip

settings.register_profile(
    "keyrepack",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("keyrepack")


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    """Batches of two, shards of three, and quiet logs."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """An empty database to copy."""
    return Template(tmp_path_factory.mktemp("databases"))
