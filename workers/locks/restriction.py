"""Restricts environments whose main key's KMS refuses, and unlocks them when it answers again (R8)."""

from __future__ import annotations

from uuid import UUID

from schemas.states import LockCause
from workers.errors import Cause, KmsRefused, KmsUnreachable, WrapRefused
from workers.kms.port import encryption_context
from workers.kms.rate_limit.budget import live
from workers.locks.locking import LockChange, announce, write_lock, write_unlock
from workers.runtime.transaction_retry import again_after_conflict
from workers.services import Services
from workers.store.environments import (
    Environment,
    TopVersion,
    get_environment,
    live_tops,
    lock_environment,
)
from workers.store.roots import sample_wrap


@again_after_conflict
def restrict(services: Services, environment: Environment, *, cause: Cause, detail: str, actor: str = "") -> bool:
    """Lock an environment whose KMS refuses, after a recheck. Return True if it was locked now.

    Every live main key has to refuse: while a move is open the other one still opens what is stored (R1), and a KMS
    that gives no answer is unreachable, never a lock.
    """
    found = _check_again(services, environment)
    if not found:
        return False
    is_lost = all(refused == Cause.DELETED for refused in found)
    lock = LockCause.LOST if is_lost else LockCause.RESTRICTED
    with services.database.write() as connection:
        current = lock_environment(connection, environment.id)
        if current.lock_cause in (LockCause.REVOKED, lock) or len(live_tops(connection, environment.id)) != len(found):
            return False
        words = f"{found[0].value}: {detail}" if detail else found[0].value
        write_lock(connection, services, current, lock, actor=actor or services.owner, detail=words, kms_cause=found[0])
    announce(services, LockChange(environments=[current]))
    return True


@again_after_conflict
def unlock_if_restricted(services: Services, environment: Environment, *, actor: str = "") -> bool:
    """Unlock an environment whose KMS opens its roots again. A revocation by the customer's word stands."""
    with services.database.read() as connection:
        locked = get_environment(connection, environment.id).lock_cause in (LockCause.RESTRICTED, LockCause.LOST)
    if not locked or _check_again(services, environment) is not None:
        return False
    with services.database.write() as connection:
        current = lock_environment(connection, environment.id)
        if current.lock_cause not in (LockCause.RESTRICTED, LockCause.LOST):
            return False
        resumed = write_unlock(connection, current, actor=actor or services.owner, reason="the KMS answers again")
    announce(services, LockChange(environments=[current], resumed=resumed))
    return True


def confirm_refusal(services: Services, environment: Environment, error: KmsRefused) -> None:
    """Check again a main key that was refused in use; restrict the environment if every live main key refuses."""
    restrict(services, environment, cause=error.cause, detail=error.why)


def _check_again(services: Services, environment: Environment) -> list[Cause] | None:
    """Ask every live main key why it refuses, the active one first; None as soon as one of them opens a root.

    Empty where one gives no answer: nothing follows from that, neither a lock nor an unlock.
    """
    with services.database.read() as connection:
        tops = live_tops(connection, environment.id)
        samples = {top.version: sample_wrap(connection, environment.id, top.version) for top in tops}
    found: list[Cause] = []
    for top in tops:
        with live():  # R8: a lock waits for no repack's calls
            cause = services.loop.run(why_refused(services, environment, top, samples[top.version]))
        if cause in (Cause.UNREACHABLE, Cause.THROTTLED, Cause.UNSUPPORTED):
            return []
        if cause is None:
            return None
        found.append(cause)
    return found


async def why_refused(
    services: Services, environment: Environment, top: TopVersion, sample: tuple[UUID, bytes] | None
) -> Cause | None:
    """Describe a main key and open a root with it: its owner may have left the one allowed and withdrawn the other."""
    main_key = services.kms.main_key(top.main_key)
    try:
        await main_key.describe()
        if sample is not None:
            await main_key.unwrap(sample[1], encryption_context(environment.environment_id, sample[0]))
    except (KmsRefused, KmsUnreachable) as error:
        return error.cause
    except WrapRefused:
        return None  # the key answers; it is the sample that is broken
    return None
