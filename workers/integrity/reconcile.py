"""Back from a backup: mend what a survey found, each step by the function that does it at other times too.

    the customer's word forgotten    ─► revoked again, or the uploaded key destroyed again
    another key is in force          ─► a repack to it, while the one that is stored still opens
    keys older than the audit        ─► a repack under the key in force
    roots under a main key that left ─► it drains again until a move has taken them away
    does not open by anything        ─► locked where that is all of it; named in any case

Each step is audited by what does it. All of it may be repeated: what is mended is found in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from schemas.errors import KeyrepackError
from schemas.keys import MainKeyUri, TopState
from workers.errors import Cause
from workers.integrity.assessment import Need, Step, Survey
from workers.integrity.journal import Journal
from workers.locks.locking import revoke
from workers.locks.restriction import restrict, unlock_if_restricted
from workers.main_keys import uploads
from workers.repack.lifecycle import start_repack
from workers.repack.starting import Request
from workers.services import Services
from workers.store.database import Connection
from workers.store.environments import get_environment, set_top_state
from workers.store.outbox import record_event
from workers.store.repacks import Repack

REASON = "restored from a backup"


class Outcome(StrEnum):
    """How an environment stands after a restore."""

    IN_ORDER = "in_order"
    UNDER_WAY = "under_way"  # what can be mended is being mended, or waits to be
    UNKNOWN = "unknown"  # a KMS gave no answer: run it again
    NAMED = "named"  # keys do not open, and nothing here can change that


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step that was taken, or why it could not be."""

    step: Step
    text: str
    error: KeyrepackError | None = None


def outcome_of(survey: Survey, done: list[Done]) -> Outcome:
    """Say how an environment stands, the worst first. Without `done` (a dry run): what would be done."""
    if survey.unopened or any(one.error is not None for one in done):
        return Outcome.NAMED
    if any(step.need == Need.LOCK for step in survey.steps):
        return Outcome.NAMED
    if survey.is_silent:
        return Outcome.UNKNOWN
    settled = {one.step.need for one in done} & {Need.REVOKE, Need.DESTROY}
    return Outcome.UNDER_WAY if {step.need for step in survey.steps} - settled else Outcome.IN_ORDER


def mend(services: Services, survey: Survey, witness: Journal, *, actor: str) -> list[Done]:
    """Take every step of a survey, in its order. A step that fails is reported, and the others are taken."""
    done = []
    for step in survey.steps:
        try:
            done.append(Done(step=step, text=_STEPS[step.need](services, survey, step, witness, actor)))
        except KeyrepackError as error:
            done.append(Done(step=step, text=str(error), error=error))
    return done


def _revoke(services: Services, survey: Survey, step: Step, _witness: Journal, actor: str) -> str:
    revoke(services, [survey.environment], actor=actor, reason=f"{REASON}: {step.why}")
    return "Revoked again."


def _destroy(services: Services, survey: Survey, step: Step, _witness: Journal, actor: str) -> str:
    uploads.delete(services, _uri(step), actor, reason=f"{REASON}: {step.why}")
    return "Destroyed again."


def _lock(services: Services, survey: Survey, step: Step, _witness: Journal, actor: str) -> str:
    cause = survey.looks[survey.tops[0].version]
    restrict(services, survey.environment, cause=cause or Cause.DENIED, detail=REASON, actor=actor)
    with services.database.read() as connection:
        lock = get_environment(connection, survey.environment.id).lock_cause
    return f"Locked: {lock}." if lock else "Not locked: a main key has answered meanwhile."


def _repack(services: Services, survey: Survey, step: Step, witness: Journal, actor: str) -> str:
    """Start it, with the tops that drain again and the record of why in the same transaction (R11)."""
    environment = survey.environment

    def record_reconciliation(connection: Connection, repack: Repack) -> None:
        for version in step.revived:
            set_top_state(connection, environment.id, version, TopState.DRAINING)
        record_event(
            connection,
            "environment.reconciled",
            actor=actor,
            environment_id=environment.environment_id,
            repack_id=repack.repack_id,
            facts=_facts(survey, step, witness),
        )

    request = Request(
        environment=environment, target=_uri(step), mode=step.mode, actor=actor, override=REASON, anew=step.anew
    )
    repack = start_repack(services, request, in_transaction=record_reconciliation)
    return f"Repack {repack.repack_id} was started."


def _unlock(services: Services, survey: Survey, _step: Step, _witness: Journal, actor: str) -> str:
    is_unlocked = unlock_if_restricted(services, survey.environment, actor=actor)
    return "Unlocked: reconcile it again." if is_unlocked else "Still locked: its main key does not open a root."


def _wait(_services: Services, _survey: Survey, step: Step, _witness: Journal, _actor: str) -> str:
    return step.why


def _facts(survey: Survey, step: Step, witness: Journal) -> dict[str, object]:
    head = witness.head
    return {
        "why": step.why,
        "main_key": step.main_key,
        "mode": step.mode.value,
        "made_up_for": [str(move.repack_id) for move in survey.missed],
        "draining_again": list(step.revived),
        "unopened": dict(survey.unopened),
        "witness": None if head is None else {"seq": head[0], "hash": head[1].hex()},
    }


def _uri(step: Step) -> MainKeyUri:
    assert step.main_key is not None
    return MainKeyUri.parse(step.main_key)


_STEPS: dict[Need, Callable[[Services, Survey, Step, Journal, str], str]] = {
    Need.REVOKE: _revoke,
    Need.DESTROY: _destroy,
    Need.LOCK: _lock,
    Need.REPACK: _repack,
    Need.WAIT: _wait,
    Need.UNLOCK: _unlock,
}
