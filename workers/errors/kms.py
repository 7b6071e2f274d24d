"""Errors of a KMS: what it refused, or did not answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from workers.errors.kinds import Permanent, Transient


class Cause(StrEnum):
    """Why a main key cannot be used. Every KMS's own codes are translated to these."""

    DENIED = "denied"
    DISABLED = "disabled"
    PENDING_DELETION = "pending_deletion"
    PENDING_IMPORT = "pending_import"
    GENERATION_DISABLED = "generation_disabled"  # the key is in use, and no longer opens what this generation wrapped
    UNAVAILABLE = "unavailable"  # the key's own state in the KMS, e.g. its external key store is off
    DELETED = "deleted"  # or never existed: a KMS does not distinguish them
    WRONG_USAGE = "wrong_usage"  # asymmetric, HMAC, signing …
    UNREACHABLE = "unreachable"
    THROTTLED = "throttled"
    UNSUPPORTED = "unsupported"  # no adapter for this kind of main key is configured


REMEDIES: dict[Cause, str] = {
    Cause.DENIED: (
        "Allow keyrepack's principal in the key's policy, as `keyrepack main-key policy` says for the environment."
    ),
    Cause.DISABLED: "Enable the key in its KMS.",
    Cause.PENDING_DELETION: "Cancel the key's deletion in its KMS, then enable it.",
    Cause.PENDING_IMPORT: "Import the key's material into its KMS.",
    Cause.GENERATION_DISABLED: "Allow the generation again in the key's KMS (its min_decryption_version).",
    Cause.UNAVAILABLE: "Connect the key's own store again; the KMS reports the key itself as unavailable.",
    Cause.DELETED: "Check the key's id, account and region; a deleted key cannot be brought back.",
    Cause.WRONG_USAGE: "Name a symmetric encryption key (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT).",
    Cause.UNREACHABLE: "Nothing to do: it is tried again. If it lasts, check the network path to the KMS.",
    Cause.THROTTLED: "Nothing to do: it is tried again, slower. If it lasts, ask the KMS for a higher quota.",
    Cause.UNSUPPORTED: "Use a main key of a configured kind, or configure this one.",
}


class DeniedBy(StrEnum):
    """Which policy denied."""

    KEY_POLICY = "key_policy"  # of the main key: nothing in it allows the action
    TRUST_POLICY = "trust_policy"  # of the role to assume
    OWN_POLICY = "own_policy"  # of keyrepack's own principal: its operator's to mend, not the customer's
    EXPLICIT_DENY = "explicit_deny"  # a statement that denies: there is one too many, not one missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """What exactly was denied: an IAM `action` on a `resource` (an ARN) to a `principal` (its ARN; empty: not
    reported).
    """

    action: str
    resource: str
    principal: str
    by: DeniedBy
    external_id: str | None = None


class KmsRefused(Permanent):
    """The KMS gave a definite answer: this main key may not be used. `denial`: what is missing, where AWS denied."""

    def __init__(
        self,
        *,
        main_key: str,
        cause: Cause,
        operation: str,
        detail: str = "",
        remedy: str = "",
        denial: Denial | None = None,
    ) -> None:
        why = f"{operation} was refused: {cause.value}." + (f" {detail}" if detail else "")
        super().__init__(f"The main key {main_key} cannot be used.", why, remedy or REMEDIES[cause])
        self.main_key, self.cause, self.operation, self.detail = main_key, cause, operation, detail
        self.denial = denial
        self.code = f"main_key_{cause.value}"


class KmsUnreachable(Transient):
    """The KMS gave no answer. Nothing follows from it about the key."""

    cause = Cause.UNREACHABLE

    def __init__(self, *, main_key: str, operation: str, detail: str = "") -> None:
        why = f"{operation} was not answered." + (f" {detail}" if detail else "")
        super().__init__(f"The KMS of {main_key} does not answer.", why, REMEDIES[self.cause])
        self.main_key, self.operation, self.detail = main_key, operation, detail
        self.code = f"main_key_{self.cause.value}"


class KmsThrottled(KmsUnreachable):
    """The KMS asks for fewer calls."""

    cause = Cause.THROTTLED


class KmsBudgetSpent(KmsThrottled):
    """Our own budget of calls is spent: the KMS was not asked, and nothing follows about it or the key."""

    def __init__(self, *, main_key: str, operation: str, detail: str = "") -> None:
        super().__init__(main_key=main_key, operation=operation, detail=detail)
        self.what = f"The KMS of {main_key} was not asked."
        self.why = f"{operation} found no room in the budget of calls." + (f" {detail}" if detail else "")
        self.remedy = "Nothing to do: it has its turn later. If it lasts, see KEYREPACK_KMS_CALLS_PER_SECOND."
        self.code = "kms_budget_spent"


KmsFailure = KmsRefused | KmsUnreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFinding:
    """One result of a probe. `ok` findings are kept too: they say what was checked.

    `statement`: the very IAM statement that is missing, where that is what is wrong. `refusal`: what a bad one says of
    its main key; None where it says nothing.
    """

    code: str
    ok: bool
    main_key: str
    cause: str
    remedy: str = ""
    statement: dict[str, Any] | None = None
    transient: bool = False  # the KMS did not answer: nothing follows from it about the key
    refusal: Cause | None = None


class ProbeUnanswered(Transient):
    """A main key was probed and a KMS did not answer: nothing was changed, and nothing was refused."""

    code = "probe_unanswered"

    def __init__(self, findings: list[ProbeFinding]) -> None:
        bad = [finding for finding in findings if not finding.ok]
        super().__init__(
            "Nothing was changed: a KMS did not answer.",
            " ".join(f"{finding.main_key}: {finding.cause}" for finding in bad),
            " ".join(dict.fromkeys(finding.remedy for finding in bad if finding.remedy)),
        )
        self.findings = findings
        self.code = bad[0].code if bad else self.code


class ProbeFailed(Permanent):
    """A main key was probed and is unusable; nothing was changed (R7)."""

    code = "probe_failed"

    def __init__(self, findings: list[ProbeFinding]) -> None:
        bad = [finding for finding in findings if not finding.ok]
        super().__init__(
            "The main key was refused; the old one stays in force.",
            " ".join(f"{finding.main_key}: {finding.cause}" for finding in bad),
            " ".join(dict.fromkeys(finding.remedy for finding in bad if finding.remedy)),
        )
        self.findings = findings
        self.code = bad[0].code if bad else self.code
