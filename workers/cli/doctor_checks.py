"""The checks of `keyrepack doctor`: each part on its own, so that one fault does not hide another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import SecretStr

from producers.topology import DEAD
from schemas.errors import KeyrepackError
from schemas.keys import MainKeyUri
from schemas.states import LockCause
from workers.broker.broker_check import count_dead_letters
from workers.cli.output import moment
from workers.cli.session import quiet_logs, read_settings
from workers.compose import build_services
from workers.errors import KmsRefused, NotFound
from workers.kms.aws.policies import missing_statement
from workers.kms.port import encryption_context
from workers.main_keys.inventory import MainKeyView, list_main_keys
from workers.repack.probe import sample_root
from workers.runtime.settings import Settings
from workers.services import Services
from workers.store.database import Connection, require_database
from workers.store.disk_space import ROOM_BYTES, require_room
from workers.store.environments import Environment, find_environment, list_environments, live_tops
from workers.store.repacks import open_repack
from workers.store.revisions import require_current


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""
    statement: dict[str, Any] | None = None  # the very IAM statement that is missing

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What was found now, and the main keys in use as they were last seen."""

    findings: list[CheckResult]
    main_keys: list[MainKeyView] = field(default_factory=list)


def examine(reference: str | None = None) -> Checkup:
    """Look at everything, or at one environment where it is named; never raises for what is wrong with it."""
    try:
        settings = read_settings()
    except KeyrepackError as error:
        return Checkup(findings=[_fault("settings", error)])
    quiet_logs(settings)
    findings = [CheckResult(check="settings", ok=True, detail="Every value is one it can have.")]
    try:
        require_database(settings.database_url.get_secret_value(), exists=True)
        services, fault = build_services(settings), None
    except KeyrepackError as error:
        nowhere = settings.model_copy(update={"database_url": SecretStr("sqlite://")})
        services, fault = build_services(nowhere), _fault("database", error)
    try:
        findings += [fault] if fault else _database(services)
        findings += [*_keys(services, fault, reference), _broker(settings)]
        return Checkup(findings=findings, main_keys=[] if fault else _last_seen(services, reference))
    finally:
        services.close()


def _database(services: Services) -> Iterator[CheckResult]:
    try:
        require_current(services.database)
    except KeyrepackError as error:
        yield _fault("database", error)
    else:
        yield CheckResult(check="database", ok=True, detail=f"{services.database.dialect}, at this program's schema.")
        yield _room(services)


def _room(services: Services) -> CheckResult:
    """Check that the database takes what a worker writes: a record of a full one may not be writable itself."""
    try:
        require_room(services.database)
    except KeyrepackError as error:
        return _fault("room in the database", error)
    return CheckResult(check="room in the database", ok=True, detail=f"There are {ROOM_BYTES >> 20} MiB at least.")


def _keys(services: Services, fault: CheckResult | None, reference: str | None) -> Iterator[CheckResult]:
    environments = []
    if fault is None:
        try:
            require_current(services.database)
            with services.database.read() as connection:
                environments = _chosen(connection, reference)
        except NotFound as error:
            yield _fault("environment", error)
        except KeyrepackError:  # reported by `_database`
            environments = []
    yield _managed_key(services, environments)
    for environment in environments:
        yield from _main_keys(services, environment)


def _last_seen(services: Services, reference: str | None) -> list[MainKeyView]:
    """List the main keys of what was chosen; none if the database does not say."""
    try:
        require_current(services.database)
        with services.database.read() as connection:
            tops = [top for one in _chosen(connection, reference) for top in live_tops(connection, one.id)]
        return list_main_keys(services, {top.main_key for top in tops})
    except KeyrepackError:  # reported by `_database`, or by `_keys`
        return []


def _chosen(connection: Connection, reference: str | None) -> list[Environment]:
    return list_environments(connection) if reference is None else [find_environment(connection, reference)]


def _managed_key(services: Services, environments: list[Environment]) -> CheckResult:
    """Check the platform's own key; without a file it is closed, which is a fault only if an environment needs it."""
    check = "managed key"
    if services.settings.managed_key_file is None and not _needs_managed(services, environments):
        return CheckResult(check=check, ok=True, detail="It is closed, and no environment needs it.")
    try:
        described = services.loop.run(services.kms.main_key("managed:").describe())
    except KeyrepackError as error:
        return _fault(check, error)
    return CheckResult(check=check, ok=True, detail=f"It is there; generation {described.generation}.")


def _needs_managed(services: Services, environments: list[Environment]) -> bool:
    if not environments:
        return False
    with services.database.read() as connection:
        tops = [top for environment in environments for top in live_tops(connection, environment.id)]
    return any(top.main_key == "managed:" for top in tops)


def _main_keys(services: Services, environment: Environment) -> Iterator[CheckResult]:
    """Check every live main key of an environment: is it there, and does it open a root."""
    check = f"main key of {environment}"
    with services.database.read() as connection:
        tops = live_tops(connection, environment.id)
        repack = open_repack(connection, environment.id)
    if environment.lock_cause is not None:
        yield _locked(environment)
    for top in tops:
        try:
            services.loop.run(services.kms.main_key(top.main_key).describe())
            opens = _opens_a_root(services, environment, top.main_key)
        except KeyrepackError as error:
            yield _fault(check, error, _missing(services, environment, error))
        else:
            yield CheckResult(
                check=check, ok=True, detail=f"{top.main_key} answers{' and opens a root' if opens else ''}."
            )
    if repack is not None and repack.block_cause is not None:
        remedy = f"See `keyrepack repack show {repack.repack_id}`."
        detail = f"The repack is blocked: {repack.block_side}, {repack.block_cause}."
        yield CheckResult(check=f"repack of {environment}", ok=False, detail=detail, remedy=remedy)


def _locked(environment: Environment) -> CheckResult:
    since = f" since {moment(environment.locked_at)}" if environment.locked_at else ""
    detail = f"Locked{since}: {environment.lock_cause}. {environment.lock_detail or ''}".strip()
    remedies = {
        LockCause.REVOKED: f"Once the customer gives it back: `keyrepack main-key restore {environment}`.",
        LockCause.RESTRICTED: "Do what is said of its main key; the next look that finds it usable unlocks.",
        LockCause.LOST: f"What is lost: `keyrepack certificate --loss {environment}`.",
    }
    remedy = remedies[LockCause(environment.lock_cause)] if environment.lock_cause else ""
    return CheckResult(check=f"main key of {environment}", ok=False, detail=detail, remedy=remedy)


def _missing(services: Services, environment: Environment, error: KeyrepackError) -> dict[str, Any] | None:
    denial = error.denial if isinstance(error, KmsRefused) else None
    if denial is None:
        return None
    principal = services.settings.aws_principal_arn
    return missing_statement(denial, environment.environment_id, principal=principal)


def _opens_a_root(services: Services, environment: Environment, main_key: str) -> bool:
    root = sample_root(services, environment)
    wrap = next((wrap for wrap in root.wraps if wrap.main_key == main_key), None) if root is not None else None
    if root is None or wrap is None:
        return False
    context = encryption_context(environment.environment_id, root.key_id)
    services.loop.run(services.kms.main_key(MainKeyUri.parse(main_key)).unwrap(wrap.wrapped, context))
    return True


def _broker(settings: Settings) -> CheckResult:
    dead = count_dead_letters(settings.broker_url.get_secret_value())
    if dead is not None:
        kept = f" {dead} messages that nobody could take are in its queue {DEAD}." if dead else ""
        return CheckResult(check="broker", ok=True, detail=f"It answers.{kept}")
    remedy = "Start it, or set KEYREPACK_BROKER_URL to where it is. Until then the sweeper has nobody to wake."
    return CheckResult(check="broker", ok=False, detail="It does not answer.", remedy=remedy)


def _fault(check: str, error: KeyrepackError, statement: dict[str, Any] | None = None) -> CheckResult:
    detail = f"{error.what} {error.why}".strip()
    return CheckResult(check=check, ok=False, detail=detail, remedy=error.remedy, statement=statement)
