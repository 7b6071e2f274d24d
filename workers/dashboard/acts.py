"""Acts of the dashboard: on a repack, an environment, a dead letter. Each says who and why in the audit (R11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, field_validator

from producers.publisher import BrokerAway
from schemas.events import PRINTABLE
from schemas.keys import MainKeyUri
from schemas.states import Mode
from workers.dashboard.auth.users import Role
from workers.dashboard.refusals import NotAllowed
from workers.dashboard.routes import Ask, Document, WithReason
from workers.dashboard.views.reads.environments import environment_of, reread
from workers.dashboard.views.reads.repacks import listed
from workers.errors import NotFound
from workers.events.receiving import discard_event, replay_event
from workers.locks import locking
from workers.repack import control
from workers.repack.lifecycle import start_repack
from workers.repack.starting import Request
from workers.services import Services
from workers.store.environments import Environment, find_environment, get_environment
from workers.store.repacks import Repack, find_repack

Steer = Callable[..., Repack]

NEEDS_WORKERS = frozenset({"resume", "retry", "replace", "replay"})
"""What workers have to be woken for: closed while the broker is away. What only the database has to know of is not: a
customer's revocation, a pause or an abort must not wait for a broker."""


class ReplacementForm(WithReason):
    """A new main key for an environment."""

    main_key: str = Field(min_length=1, max_length=512, description="URI of the new main key, or managed:.")
    mode: Mode = Field(default=Mode.DEEP, description="deep renews every wrapping key below; shallow moves the roots.")
    override: bool = Field(
        default=False, description="Replace it within the interval; the reason is kept. Needs the role security."
    )

    @field_validator("override", mode="before")
    @classmethod
    def _is_ticked(cls, value: object) -> object:
        """Read a form's checkbox."""
        return {"on": True, "": False}.get(value, value) if isinstance(value, str) else value


class Lock(WithReason):
    """By the customer's word."""

    scope: Annotated[str, Field(pattern="^(environment|workspace)$", description="This one, or all of its workspace.")]
    reason: Annotated[
        str, Field(min_length=1, max_length=256, pattern=PRINTABLE, description="Why; kept in the audit.")
    ]


def require_broker(ask: Ask) -> None:
    """Raise BrokerAway if no worker could be woken."""
    broker = ask.site.overview_cache.latest().overview.broker
    if not broker.answers:
        raise BrokerAway(broker.why)


def steer(action: str) -> Callable[[Ask], Document]:
    """Pause, resume, abort, stop or retry a repack."""
    act: Steer = getattr(control, action)

    def run(ask: Ask) -> Document:
        services = ask.site.services
        with services.database.read() as connection:
            found = find_repack(connection, ask.path["repack"])
            environment = get_environment(connection, found.environment)
        changed = act(services, found, actor=ask.visitor.actor, reason=ask.form.reason)
        return listed(changed, str(environment)) | {"was": found.state.value}

    return run


def replace(ask: Ask) -> Document:
    """Start a repack of an environment onto another main key."""
    form = ask.form
    if form.override and not ask.visitor.role.may(Role.SECURITY):
        raise NotAllowed(ask.visitor.role, Role.SECURITY)
    target = MainKeyUri.parse(form.main_key)
    environment = _environment(ask)
    request = Request(
        environment=environment,
        target=target,
        mode=form.mode,
        actor=ask.visitor.actor,
        override=form.reason if form.override else None,
        reason=form.reason,
    )
    return listed(start_repack(ask.site.services, request), str(environment))


def lock(ask: Ask) -> Document:
    """Lock an environment, or its whole workspace: every process drops its keys and refuses."""
    return _turn(ask, locking.revoke, locking.revoke_workspace)


def unlock(ask: Ask) -> Document:
    """Take that back. A lock that the KMS's refusal set ends with the refusal, and not by this."""
    return _turn(ask, locking.restore, locking.restore_workspace)


def _turn(ask: Ask, one: Callable[..., list[Environment]], all_of: Callable[..., list[Environment]]) -> Document:
    services, environment = ask.site.services, _environment(ask)
    by = {"actor": ask.visitor.actor, "reason": ask.form.reason}
    if ask.form.scope == "workspace":
        changed = all_of(services, environment.workspace, **by)
    else:
        changed = one(services, [environment], **by)
    return reread(services, str(environment.environment_id)) | {"changed": [str(each) for each in changed]}


def replay(ask: Ask) -> Document:
    """Judge a dead letter again, by what is configured now."""
    row = _letter(ask)
    inbox = replay_event(
        ask.site.services, row, sources=ask.site.sources, actor=ask.visitor.actor, reason=ask.form.reason
    )
    return {"id": row, "outcome": "replayed", "inbox": inbox}


def discard(ask: Ask) -> Document:
    """Record that a dead letter needs no attention any more."""
    row = _letter(ask)
    discard_event(ask.site.services, row, actor=ask.visitor.actor, reason=ask.form.reason)
    return {"id": row, "outcome": "discarded"}


def _letter(ask: Ask) -> int:
    text = ask.path["letter"]
    if not text.isdigit() or len(text) > 18:
        raise NotFound("rejected event", text[:64], "Its number is in the list of queues.")
    return int(text)


def _environment(ask: Ask) -> Environment:
    services: Services = ask.site.services
    with services.database.read() as connection:
        return find_environment(connection, environment_of(ask))
