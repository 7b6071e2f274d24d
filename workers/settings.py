"""Every setting, in one table: `KEYREPACK_<NAME>` in the environment. Nothing else reads the environment.

AWS's own variables (AWS_ENDPOINT_URL_KMS, credentials) are read by its SDK, so any emulator can be pointed to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator can set. A wrong value is named with what would be right."""

    model_config = SettingsConfigDict(env_prefix="KEYREPACK_", frozen=True, extra="ignore")

    database_url: SecretStr = Field(
        default=SecretStr("sqlite:///.keyrepack/keyrepack.db"),
        description="SQLAlchemy URL: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
    )
    broker_url: SecretStr = Field(default=SecretStr("redis://127.0.0.1:6379/0"), description="kombu URL of the broker.")
    managed_key_file: Path | None = Field(
        default=None, description="File of the platform's own main key (mode 0600). Without it `managed:` is closed."
    )
    batch_size: int = Field(default=4000, ge=1, le=20_000, description="Data keys rewrapped in one transaction.")
    shard_size: int = Field(default=25_000, ge=1, description="Data keys in a shard, about; at least one batch.")
    slice_seconds: float = Field(
        default=20.0,
        gt=0,
        le=120,
        description="How long a task works before it makes room; far below visibility_timeout.",
    )
    lease_seconds: float = Field(
        default=30.0, gt=0, le=600, description="How long a shard stays a worker's without a checkpoint."
    )
    sweep_seconds: float = Field(default=15.0, gt=0, description="How often the sweeper wakes what lies idle.")
    visibility_timeout: int = Field(
        default=300, ge=30, description="Seconds after which Redis hands an unacknowledged message out again."
    )
    kms_concurrency: int = Field(default=16, ge=1, le=256, description="Concurrent calls to a KMS from one process.")
    kms_timeout_seconds: float = Field(
        default=10.0, gt=0, description="How long one KMS call may take, retries included."
    )
    kms_probe_seconds: float = Field(default=5.0, gt=0, description="First wait before a blocked repack looks again.")
    kms_probe_max_seconds: float = Field(default=300.0, gt=0, description="Longest wait before it looks again.")
    cache_ttl: float = Field(
        default=300.0, ge=0, le=300, description="Seconds a plaintext key may stay in memory (R8)."
    )
    cache_size: int = Field(default=10_000, ge=0, description="Plaintext keys in a process's cache, at most.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(
        default="json", description="One JSON object a line, or coloured text."
    )
    allow_memory_kms: bool = Field(
        default=False, description="Open `memory:` main keys: tests only, they die with the process."
    )
