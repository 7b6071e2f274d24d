"""Every setting, in one table: `KEYREPACK_<NAME>` in the environment. Nothing else reads the environment.

A value may also be a file of that name in the folder KEYREPACK_SECRETS_DIR: what orchestrators mount. The environment
wins.

AWS's own variables (AWS_ENDPOINT_URL_KMS, credentials) are read by its SDK, so any emulator can be pointed to.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from schemas.broker_address import read_broker_url
from workers.runtime.failpoints import Failpoint

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """What an operator can set. A wrong value is named with what would be right."""

    model_config = SettingsConfigDict(env_prefix="KEYREPACK_", frozen=True, extra="ignore")

    secrets_dir: Path | None = Field(
        default=None, description="Folder whose files hold settings, each named as its variable; read at the start."
    )
    database_url: SecretStr = Field(
        default=SecretStr("sqlite:///.keyrepack/keyrepack.db"),
        description="SQLAlchemy URL: sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
    )
    broker_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="URL of the broker: redis, rediss, amqp, amqps or sqs; TLS is verified.",
    )
    managed_key_file: Path | None = Field(
        default=None, description="File of the platform's own main key (mode 0600). Without it `managed:` is closed."
    )
    aws_access_file: Path | None = Field(
        default=None,
        description="JSON, by AWS account: role_arn and external_id to assume, backup_region of multi-region keys.",
    )
    aws_principal_arn: str | None = Field(
        default=None,
        pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:(root|(role|user)/[A-Za-z0-9_+=,.@/-]+)$",
        description="Who keyrepack is to AWS: named in the policies that customers attach.",
    )
    openbao_address: str | None = Field(
        default=None,
        description="OpenBao's or Vault's URL, https (http on loopback only). Without it `openbao:` is closed.",
    )
    openbao_token_file: Path | None = Field(
        default=None, description="File of the token for OpenBao (mode 0600); read again when it changes."
    )
    openbao_namespace: str = Field(
        default="", pattern=r"^[A-Za-z0-9_./-]*$", description="Namespace in OpenBao; the root's where empty."
    )
    batch_size: int = Field(default=10_000, ge=1, le=20_000, description="Data keys rewrapped in one transaction.")
    shard_size: int = Field(default=30_000, ge=1, description="Data keys in a shard, about; at least one batch.")
    slice_seconds: float = Field(
        default=20.0,
        gt=0,
        le=120,
        description="How long a task works before it makes room; far below visibility_timeout.",
    )
    turn_seconds: float = Field(
        default=1.0, gt=0, le=20, description="How long it stays with one repack while other repacks wait."
    )
    lease_seconds: float = Field(
        default=30.0, gt=0, le=600, description="How long a shard stays a worker's without a checkpoint."
    )
    sweep_seconds: float = Field(default=15.0, gt=0, description="How often the sweeper wakes what lies idle.")
    canary_seconds: float = Field(
        default=15.0, gt=0, description="How often a canary is sent through each queue: what shows that it is served."
    )
    audit_verify_seconds: float = Field(
        default=3600.0, gt=0, description="How often the audit chain is followed from its beginning to its head."
    )
    visibility_timeout: int = Field(
        default=300, ge=30, description="Seconds after which Redis hands an unacknowledged message out again."
    )
    kms_concurrency: int = Field(default=16, ge=1, le=256, description="Concurrent calls to a KMS from one process.")
    kms_calls_per_second: float = Field(
        default=1000.0,
        ge=1,
        description="Calls per second to the KMS of one account and region, all processes together.",
    )
    kms_burst: float = Field(default=200.0, ge=1, description="Of these, calls that may be made at once after a lull.")
    kms_live_share: float = Field(
        default=0.2, ge=0, le=0.9, description="Part of both that repacks and polls leave to services that read keys."
    )
    kms_budget_url: SecretStr | None = Field(
        default=None, description="Redis that counts these calls; the broker where that is a Redis."
    )
    kms_processes: int = Field(
        default=8, ge=1, description="Processes that share the calls evenly while no Redis counts them."
    )
    kms_timeout_seconds: float = Field(
        default=10.0, gt=0, description="How long one KMS call may take, retries included."
    )
    kms_probe_seconds: float = Field(
        default=5.0, gt=0, description="First wait before a blocked repack is checked again."
    )
    kms_probe_max_seconds: float = Field(default=300.0, gt=0, description="Longest wait before it is checked again.")
    replacement_interval: float = Field(
        default=86_400, ge=0, description="Seconds between two replacements of an environment's main key; 0: no limit."
    )
    backup_retention: float = Field(
        default=0, ge=0, description="Seconds that backups are kept: a certificate holds from then on."
    )
    cache_ttl: float = Field(
        default=300.0, ge=0, le=300, description="Seconds a plaintext key may stay in memory (R8)."
    )
    cache_size: int = Field(default=10_000, ge=0, description="Plaintext keys in a process's cache, at most.")
    event_sources_file: Path | None = Field(
        default=None, description="Who may say what: sources, keys, workspaces, types. Without it no event is taken."
    )
    allow_unsigned_events: bool = Field(
        default=False, description="Without a sources file, believe everyone who reaches the broker: trials and tests."
    )
    event_tolerance_seconds: float = Field(
        default=300.0, gt=0, description="How far from now an event's signature may be; a revocation is never too late."
    )
    poll_interval: float = Field(default=300.0, gt=0, description="Seconds between two polls of a main key in use.")
    poll_calls_per_second: float = Field(
        default=50.0, gt=0, description="Calls per second that these polls make, in all processes together."
    )
    hidden_generation_days: float = Field(
        default=90.0, gt=0, description="Days after which roots are rewrapped where a KMS hides its key's generation."
    )
    traces_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Where traces are sent, OTLP over HTTP; needs the extra `otel`. Without it there are none.",
    )
    dashboard_host: str = Field(
        default="127.0.0.1",
        description="Address the dashboard listens on; one that is not loopback needs an https URL.",
    )
    dashboard_port: int = Field(default=8025, ge=0, le=65535, description="Port of the dashboard; 0 takes a free one.")
    dashboard_url: str | None = Field(
        default=None,
        description="How browsers reach the dashboard, such as https://keys.example.com; with https cookies "
        "are Secure.",
    )
    users_file: Path = Field(
        default=Path(".keyrepack/users.json"),
        description="Who may sign in to the dashboard (mode 0600); made at its first start.",
    )
    session_idle_seconds: float = Field(
        default=1800.0, gt=0, description="Seconds without a request after which a session of the dashboard ends."
    )
    session_seconds: float = Field(
        default=28_800.0, gt=0, description="Seconds after which a session of the dashboard ends, whatever happens."
    )
    dashboard_poll_seconds: float = Field(
        default=1.0,
        gt=0,
        description="How often the dashboard reads what open pages show; one reader for all browsers.",
    )
    oidc_issuer: str | None = Field(
        default=None, description="Issuer URL of an OpenID Connect provider that may sign users in to the dashboard."
    )
    oidc_client_id: str | None = Field(default=None, description="What the dashboard is called at that provider.")
    oidc_client_secret_file: Path | None = Field(
        default=None, description="File of the client's secret at that provider (mode 0600)."
    )
    oidc_role_claim: str = Field(
        default="keyrepack_role",
        description="Claim of its ID tokens that names a role, or several: viewer, operator, security.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(
        default="json", description="One JSON object per line, or coloured text."
    )
    allow_memory_kms: bool = Field(
        default=False, description="Open `memory:` main keys: tests only, they die with the process."
    )
    allow_failpoints: bool = Field(default=False, description="Let `failpoint` be armed: tests only.")
    failpoint_marker: Path | None = Field(
        default=None,
        description="File that is made when the failpoint fires: it fires once. Without one: always.",
    )
    failpoint: str | None = Field(
        default=None,
        description="POINT=kill, raise, hang or delay:SECONDS: where a process fails, and how. Tests only.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: values given in code, the environment, then the files of `secrets_dir`."""
        folder = os.environ.get("KEYREPACK_SECRETS_DIR")
        files = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder and Path(folder).is_dir() else ()
        return init_settings, env_settings, *files

    @field_validator("secrets_dir")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError(f"there is no folder {value}")
        return value

    @field_validator("broker_url", "kms_budget_url")
    @classmethod
    def _has_known_tls_options(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_broker_url(value.get_secret_value())
        return value

    @field_validator("openbao_address")
    @classmethod
    def _is_a_private_way(cls, value: str | None) -> str | None:
        """Plaintext keys travel this way (R10)."""
        if value is None:
            return value
        parts = urlsplit(value)
        is_secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if not is_secure or not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("give https://HOST:PORT (http only for 127.0.0.1, ::1 or localhost), and nothing else")
        return value

    @field_validator("failpoint")
    @classmethod
    def _is_a_test(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Refuse a failpoint outside tests: an operator who sets one by mistake is told, and nothing starts."""
        if value is None:
            return None
        if not info.data.get("allow_failpoints"):
            raise ValueError("failpoints are for tests: unset it, or set KEYREPACK_ALLOW_FAILPOINTS in a test")
        Failpoint.parse(value)
        return value

    @property
    def kms_patience(self) -> float:
        """Seconds that a repack's call waits to be admitted. A root takes three in a row, all within half a lease."""
        return self.lease_seconds / 6

    @property
    def roots_minted_at_once(self) -> int:
        """Wrapping roots whose calls, two each, fit into `kms_patience` though the rate was halved thrice."""
        background = self.kms_calls_per_second * (1 - self.kms_live_share)
        return max(1, int(background / 8 * self.kms_patience / 2))

    @field_validator("dashboard_url", "oidc_issuer")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        """Passwords and sessions travel this way."""
        if value is None:
            return value
        parts = urlsplit(value)
        is_secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if not is_secure or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("give https://HOST (http only for 127.0.0.1, ::1 or localhost)")
        return value.rstrip("/")

    @property
    def is_secure(self) -> bool:
        """Return True if browsers reach the dashboard over TLS."""
        return self.dashboard_url is not None and self.dashboard_url.startswith("https:")

    @property
    def listens_openly(self) -> bool:
        """Return True if the dashboard can be reached from other machines."""
        return self.dashboard_host not in _LOOPBACK

    @property
    def poll_tick(self) -> float:
        """Seconds between two passes over the main keys that are due."""
        return min(5.0, self.poll_interval / 4)
