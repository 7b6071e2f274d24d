"""Refuse early (R7): try a main key before anything changes, and say precisely what is wrong with it.

A replacement costs at most 6 calls, a rotation 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from schemas.keys import KEY_BYTES, KeyKind, MainKeyUri
from workers.errors import (
    KmsBudgetSpent,
    KmsRefused,
    KmsUnreachable,
    ProbeFailed,
    ProbeFinding,
    ProbeUnanswered,
    WrapRefused,
)
from workers.kms.aws.policies import missing_statement
from workers.kms.port import encryption_context
from workers.services import Services
from workers.store.environments import Environment, TopVersion
from workers.store.roots import Root, root_page

PROBE_KEY = UUID(int=0)
"""The key id that canaries are bound to: no key has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a probe found. `generation` is the target's; None where its KMS hides it or it is unusable."""

    findings: list[ProbeFinding]
    generation: str | None
    calls: int

    @property
    def is_clear(self) -> bool:
        """Return True if every finding is good."""
        return all(finding.ok for finding in self.findings)

    def failure(self) -> ProbeFailed | ProbeUnanswered:
        """Return what to raise if it is not clear. One definite answer outweighs any number of missing ones."""
        refused = any(not finding.ok and not finding.transient for finding in self.findings)
        return ProbeFailed(self.findings) if refused else ProbeUnanswered(self.findings)


def probe_replacement(services: Services, environment: Environment, source: TopVersion, target: MainKeyUri) -> Probe:
    """Describe both keys, wrap a canary with the new one, and open a root with the old one."""
    sample = sample_root(services, environment)
    return services.loop.run(_probe(services, environment, MainKeyUri.parse(source.main_key), target, sample))


def sample_root(services: Services, environment: Environment) -> Root | None:
    """Return a root that has a wrap; None in an environment without keys."""
    with services.database.read() as connection:
        for kind in KeyKind:
            for root in root_page(connection, environment.id, kind, after=0, upto=2**62, limit=1):
                if root.wraps:
                    return root
    return None


async def _probe(
    services: Services, environment: Environment, source: MainKeyUri, target: MainKeyUri, sample: Root | None
) -> Probe:
    before = services.kms.total_calls()
    findings: list[ProbeFinding] = []
    generation = await _try_target(services, environment, target, findings)
    if source != target:
        await _try_describe(services, environment, source, findings, "source")
    if sample is not None and all(finding.ok for finding in findings):
        await _try_sample(services, environment, source, target, sample, findings)
    return Probe(findings=findings, generation=generation, calls=services.kms.total_calls() - before)


async def _try_target(
    services: Services, environment: Environment, uri: MainKeyUri, findings: list[ProbeFinding]
) -> str | None:
    """Describe, then wrap a canary: the adapter opens and compares every wrap it makes."""
    generation = await _try_describe(services, environment, uri, findings, "target")
    if not findings[-1].ok:
        return None
    probe_key = services.random(KEY_BYTES)
    try:
        await services.kms.main_key(uri).wrap(probe_key, encryption_context(environment.environment_id, PROBE_KEY))
        findings.append(_good("target_wraps", uri, "It wraps and unwraps."))
    except (KmsRefused, KmsUnreachable) as error:
        findings.append(_bad(services, environment, error))
    return generation


async def _try_describe(
    services: Services, environment: Environment, uri: MainKeyUri, findings: list[ProbeFinding], side: str
) -> str | None:
    try:
        description = await services.kms.main_key(uri).describe()
    except (KmsRefused, KmsUnreachable) as error:
        findings.append(_bad(services, environment, error))
        return None
    told = f"generation {description.generation}" if description.generation else "its KMS hides the generation"
    findings.append(_good(f"{side}_described", uri, f"It is there and enabled; {told}."))
    return description.generation


async def _try_sample(
    services: Services,
    environment: Environment,
    source: MainKeyUri,
    target: MainKeyUri,
    sample: Root,
    findings: list[ProbeFinding],
) -> None:
    """Open one root with the old key, and move it inside the KMS where that is how it will be moved."""
    context = encryption_context(environment.environment_id, sample.key_id)
    wrap = next((wrap for wrap in sample.wraps if wrap.main_key == str(source)), None)
    if wrap is None:
        return
    old, new = services.kms.main_key(source), services.kms.main_key(target)
    inside = new.can_rewrap_from(source)
    try:
        if source != target or not inside:
            await old.unwrap(wrap.wrapped, context)
            findings.append(_good("source_unwraps", source, "It opens a root."))
        if inside:
            await new.rewrap(wrap.wrapped, context, source)
            findings.append(_good("target_rewraps", target, "It takes a root over inside the KMS."))
    except WrapRefused as error:
        findings.append(
            _good("source_answers", source, f"It answers; the sampled root will be set aside ({error.reason}).")
        )
    except (KmsRefused, KmsUnreachable) as error:
        findings.append(_bad(services, environment, error))


def _good(code: str, uri: MainKeyUri, cause: str) -> ProbeFinding:
    return ProbeFinding(code=code, ok=True, main_key=str(uri), cause=cause)


def _bad(services: Services, environment: Environment, error: KmsRefused | KmsUnreachable) -> ProbeFinding:
    """Make a bad finding, with the very statement that is missing if AWS denied."""
    denial, statement = error.denial if isinstance(error, KmsRefused) else None, None
    if denial is not None:
        principal = services.settings.aws_principal_arn
        statement = missing_statement(denial, environment.environment_id, principal=principal)
    return ProbeFinding(
        code=error.code,
        ok=False,
        main_key=error.main_key,
        cause=error.why,
        remedy=error.remedy,
        statement=statement,
        transient=isinstance(error, KmsUnreachable),
        refusal=None if isinstance(error, KmsBudgetSpent) else error.cause,
    )
