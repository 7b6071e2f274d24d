"""THE TABLE: every page and every act, its address, and the role that it needs. The API and its document follow it."""

from __future__ import annotations

from workers.dashboard import acts
from workers.dashboard.auth.users import Role
from workers.dashboard.routes import Act, Ask, Document, NoQuery, View
from workers.dashboard.views.reads import audits, environments, main_keys, overview, repacks

ENVIRONMENT, REPACK, LETTER = "/environments/{environment}", "/repacks/{repack}", "/queues/rejected/{letter}"

VIEWS: tuple[View, ...] = (
    View(name="overview", path="/overview", title="Overview", read=overview.overview, live=True),
    View(name="queues", path="/queues", title="Queues", read=overview.queues, query=overview.Letters, live=True),
    View(name="rejected", path=LETTER, title="Rejected event", read=overview.rejected, section="queues"),
    View(name="repacks", path="/repacks", title="Repacks", read=repacks.repacks, query=repacks.RepackFilter, live=True),
    View(name="repack", path=REPACK, title="Repack", read=repacks.repack, section="repacks", live=True),
    View(
        name="main-keys", path="/main-keys", title="Main keys", read=main_keys.main_keys, query=main_keys.MainKeyFilter,
    ),
    View(
        name="environments", path="/environments", title="Environments", read=environments.environments,
        query=environments.EnvironmentFilter,
    ),
    View(
        name="environment", path=ENVIRONMENT, title="Environment", read=environments.environment,
        section="environments", live=True,
    ),
    View(
        name="replace", path=f"{ENVIRONMENT}/replace", title="Replace the main key", read=environments.replace,
        query=environments.ReplacementPreview, section="environments", role=Role.OPERATOR,
    ),
    View(name="workers", path="/workers", title="Workers", read=overview.workers, live=True),
    View(name="audit", path="/audit", title="Audit", read=audits.audit, query=audits.Search),
)  # fmt: skip


def _to_repack(_ask: Ask, document: Document) -> str:
    return f"/repacks/{document['id']}"


def _to_environment(_ask: Ask, document: Document) -> str:
    return f"/environments/{document['id']}"


def _is_now(document: Document) -> str:
    return f"The repack was {document['was']}, and is {document['state'].replace('_', ' ')}."


def _is_locked(document: Document) -> str:
    changed = ", ".join(document["changed"])
    now = f"Its lock: {document['lock']}." if document["lock"] else "It is not locked."
    return f"{now} Changed: {changed}." if changed else f"{now} Nothing was changed."


ACTS: tuple[Act, ...] = (
    *(
        Act(
            name=name, path=f"{REPACK}/{name}", title=f"{name.capitalize()} a repack", run=acts.steer(name),
            said=_is_now, back=_to_repack, role=Role.SECURITY if name == "abort" else Role.OPERATOR,
        )
        for name in ("pause", "resume", "abort", "stop", "retry")
    ),
    Act(
        name="replace", path=f"{ENVIRONMENT}/replace", title="Replace the main key", run=acts.replace,
        form=acts.ReplacementForm, said=lambda document: f"A {document['mode']} repack has started.", back=_to_repack,
    ),
    Act(
        name="lock", path=f"{ENVIRONMENT}/lock", title="Lock by the customer's word", run=acts.lock, form=acts.Lock,
        said=_is_locked, back=_to_environment,
    ),
    Act(
        name="unlock", path=f"{ENVIRONMENT}/unlock", title="Take a revocation back", run=acts.unlock, form=acts.Lock,
        said=_is_locked, back=_to_environment, role=Role.SECURITY,
    ),
    Act(
        name="replay", path=f"{LETTER}/replay", title="Replay a rejected event", run=acts.replay,
        said=lambda document: f"Event {document['id']} was taken, and has its effect now.",
        back=lambda _ask, _document: "/queues",
    ),
    Act(
        name="discard", path=f"{LETTER}/discard", title="Discard a rejected event", run=acts.discard,
        said=lambda document: f"Event {document['id']} was discarded.", back=lambda _ask, _document: "/queues",
    ),
    Act(
        name="verify-audit", path="/audit/verify", title="Follow the audit chain", run=audits.check_chain, form=NoQuery,
        said=lambda document: "The audit chain is whole." if document["whole"] else "The audit chain is broken.",
        back=lambda _ask, _document: "/audit",
    ),
)  # fmt: skip
