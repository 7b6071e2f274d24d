"""What can go wrong, drawn as a tree: what matters is read off the class.

KeyrepackError
├── Transient                 try again: nothing is known to be wrong
│   ├── KmsUnreachable        the KMS did not answer: not a revocation
│   ├── KmsThrottled          the KMS answered "too fast"
│   │   └── KmsBudgetSpent    our own budget of calls is spent: the KMS was not asked
│   ├── ProbeUnanswered       a new main key was probed, and its KMS or the old one's did not answer: `findings`
│   ├── UnknownWord           a row has a word that a newer program wrote: that one goes on with it
│   └── DatabaseFailed        the database did not do it; nothing of the transaction is stored
│       ├── DatabaseAway          it did not answer
│       ├── DatabaseFull          it has no room left
│       └── TransactionConflict   it gave the transaction up: a deadlock, or a lock that did not come free
├── Permanent                 trying again changes nothing
│   ├── KmsRefused            the KMS answered "no": disabled, denied, deleted … (`cause`)
│   ├── WrapRefused           these bytes do not open: corrupt, foreign, cut short (`reason`) → quarantine
│   ├── ProbeFailed           a new main key is unusable (R7): `findings`
│   ├── RepackConflict        another repack of this environment is open
│   ├── AlreadyInForce        the main key asked for is the one in force
│   ├── ReplacedTooSoon       a main key is replaced at most once in 24 hours
│   ├── UploadRefused         uploaded key material is not what it must be (`fault`)
│   ├── UploadParamsSpent     the public key it was wrapped for is used, expired or given up
│   ├── NotFound              no such environment, repack or key
│   ├── AlreadyThere          there is one of that name
│   ├── HierarchyBroken       a cycle, an orphan, too many levels
│   ├── EnvironmentLocked     its main key is restricted or revoked
│   ├── SchemaTooOld          the database lacks revisions that this program needs
│   ├── ProgramTooOld         the database has gone where this program cannot follow
│   ├── WitnessBroken         a file that is to witness what happened does not say it (`line`)
│   └── NotConfigured         a setting without which we stay closed
└── LostRace                  somebody else was first: drop what you hold and look again
    ├── LeaseLost             the shard is another worker's, or its repack no longer runs
    ├── VersionGone           the wrapping version was shredded meanwhile (R5)
    ├── TopChanged            the environment's top changed meanwhile
    └── AnotherStarted        another repack of the environment was started first
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from schemas.errors import KeyrepackError


class Transient(KeyrepackError):
    """Worth trying again."""


class Permanent(KeyrepackError):
    """Trying again changes nothing."""


class LostRace(KeyrepackError):
    """Somebody else was first."""


class Cause(StrEnum):
    """Why a main key cannot be used. Every KMS's own codes are translated to these."""

    DENIED = "denied"
    DISABLED = "disabled"
    PENDING_DELETION = "pending_deletion"
    PENDING_IMPORT = "pending_import"
    GENERATION_DISABLED = "generation_disabled"  # the key is in use, and no longer opens what this generation wrapped
    UNAVAILABLE = "unavailable"  # the key's own state in the KMS, e.g. its external key store is off
    DELETED = "deleted"  # or never existed: a KMS does not tell them apart
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
    """What exactly was denied: an IAM `action` on a `resource` (an ARN) to a `principal` (its ARN; empty: not told)."""

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
    """Our own budget of calls has no room: the KMS was not asked, and nothing follows about it or the key."""

    def __init__(self, *, main_key: str, operation: str, detail: str = "") -> None:
        super().__init__(main_key=main_key, operation=operation, detail=detail)
        self.what = f"The KMS of {main_key} was not asked."
        self.why = f"{operation} found no room in the budget of calls." + (f" {detail}" if detail else "")
        self.remedy = "Nothing to do: it has its turn later. If it lasts, see KEYREPACK_KMS_CALLS_PER_SECOND."
        self.code = "kms_budget_spent"


KmsFailure = KmsRefused | KmsUnreachable


class UnknownWord(Transient):
    """A row has a word that this program does not know: a newer one runs beside it, and goes on with that row."""

    code = "unknown_word"

    def __init__(self, *, kind: str, word: str, of: str) -> None:
        super().__init__(
            f"{of} is left to a newer program.",
            f"Its {kind} is {word!r}, which this one does not know.",
            "Nothing to do while a release is rolled out; after that, run the newer one here too.",
        )
        self.kind, self.word = kind, word


class DatabaseFailed(Transient):
    """The database did not do what it was asked for. Whoever must know fails closed."""

    code = "database_failed"


class DatabaseAway(DatabaseFailed):
    """The database did not answer."""

    code = "database_away"

    def __init__(self, detail: str) -> None:
        super().__init__("The database does not answer.", detail, "It is tried again; check that the server is up.")


class DatabaseFull(DatabaseFailed):
    """The database has no room left. What is stored can be read, and nothing is lost."""

    code = "database_full"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The database has no room left.",
            detail,
            "Make room on its disk; work goes on by itself then.",
        )


class TransactionConflict(DatabaseFailed):
    """The database gave a transaction up for another one's sake. It may be tried again as a whole."""

    code = "transaction_conflict"

    def __init__(self, detail: str) -> None:
        super().__init__("The database gave the transaction up.", detail, "Nothing to do: it is tried again.")


class WrapReason(StrEnum):
    """Why a wrap does not open. The reason of a quarantine."""

    MALFORMED = "malformed"  # not of the layout: cut short, another version, not ours
    DOES_NOT_OPEN = "does_not_open"  # a flipped bit, or it belongs to another row, tenant or parent
    WRONG_FINGERPRINT = "wrong_fingerprint"  # it opens, to other material than the key was born with
    PARENT_DOES_NOT_OPEN = "parent_does_not_open"  # the version it hangs from is itself in quarantine
    PARENT_MISSING = "parent_missing"  # the version it hangs from is shredded or was never there


class WrapRefused(Permanent):
    """These bytes do not open. Says nothing about any other key."""

    code = "wrap_refused"

    def __init__(self, *, reason: WrapReason, key: UUID | None = None) -> None:
        name = f"The wrap of key {key}" if key else "The wrap"
        super().__init__(
            f"{name} does not open.", f"Reason: {reason.value}.", "Restore its row from a backup, then retry."
        )
        self.reason, self.key = reason, key


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of a probe. `ok` findings are kept too: they say what was looked at.

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

    def __init__(self, findings: list[Finding]) -> None:
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

    def __init__(self, findings: list[Finding]) -> None:
        bad = [finding for finding in findings if not finding.ok]
        super().__init__(
            "The main key was refused; the old one stays in force.",
            " ".join(f"{finding.main_key}: {finding.cause}" for finding in bad),
            " ".join(dict.fromkeys(finding.remedy for finding in bad if finding.remedy)),
        )
        self.findings = findings
        self.code = bad[0].code if bad else self.code


class RepackConflict(Permanent):
    """Another repack of the environment is open; nothing was changed."""

    code = "repack_conflict"

    def __init__(self, *, environment: UUID, repack: UUID, state: str) -> None:
        super().__init__(
            "The replacement was refused; nothing was changed.",
            f"Repack {repack} of environment {environment} is {state}.",
            "Wait until it has ended, or abort or stop it first.",
        )
        self.environment, self.repack, self.state = environment, repack, state


class AlreadyInForce(Permanent):
    """The main key asked for is the one in force, at its current generation."""

    code = "already_in_force"

    def __init__(self, *, main_key: str) -> None:
        super().__init__(
            "Nothing was changed.", f"{main_key} is already in force, at this generation.", "Nothing to do."
        )
        self.main_key = main_key


class UploadFault(StrEnum):
    """What is wrong with uploaded key material."""

    UNKNOWN_ALGORITHM = "unknown_algorithm"
    WRONG_WRAPPING = "wrong_wrapping"  # wrapped for another public key, by another algorithm, or damaged
    WRONG_LENGTH = "wrong_length"
    ALL_BYTES_EQUAL = "all_bytes_equal"


_UPLOAD_REMEDIES: dict[UploadFault, str] = {
    UploadFault.UNKNOWN_ALGORITHM: "Name one of the algorithms that came with the public key.",
    UploadFault.WRONG_WRAPPING: "Wrap the raw key for the public key of these parameters, by the algorithm named.",
    UploadFault.WRONG_LENGTH: "Upload a key of 256 bits, as raw bytes: no text, no line end.",
    UploadFault.ALL_BYTES_EQUAL: "Make the key with a cryptographic random generator.",
}


class UploadRefused(Permanent):
    """Uploaded key material was refused; nothing of it is kept."""

    def __init__(self, *, params: UUID, fault: UploadFault, why: str) -> None:
        super().__init__("The uploaded key was refused.", why, _UPLOAD_REMEDIES[fault])
        self.params, self.fault = params, fault
        self.code = f"upload_{fault.value}"


class UploadParamsSpent(Permanent):
    """Upload parameters that take no key any more; their private key is destroyed."""

    code = "upload_params_spent"

    def __init__(self, *, params: UUID, why: str) -> None:
        super().__init__(f"Upload parameters {params} take no key.", why, "Ask for new ones and wrap the key again.")
        self.params = params


class ReplacedTooSoon(Permanent):
    """A main key is replaced at most once in an interval; nothing was changed."""

    code = "replaced_too_soon"

    def __init__(self, *, environment: UUID, next_at: datetime) -> None:
        super().__init__(
            "The replacement was refused; nothing was changed.",
            f"The main key of environment {environment} was replaced a short while ago.",
            f"It can be replaced again from {next_at:%Y-%m-%d %H:%M:%S} UTC; an operator may override with a reason.",
        )
        self.environment, self.next_at = environment, next_at


class NotFound(Permanent):
    """No such thing."""

    code = "not_found"

    def __init__(self, kind: str, name: object, remedy: str = "") -> None:
        super().__init__(f"There is no {kind} {name}.", "", remedy or "Check the id.")
        self.kind, self.name = kind, str(name)


class AlreadyThere(Permanent):
    """There is one of that name already; nothing was changed."""

    code = "already_there"

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"There is already an {kind} {name}.", "", "Take another name.")
        self.kind, self.name = kind, str(name)


class HierarchyBroken(Permanent):
    """The hierarchy is not a tree of at most 8 levels; the keys are named."""

    code = "hierarchy_broken"

    def __init__(self, *, fault: str, keys: list[UUID]) -> None:
        named = ", ".join(str(key) for key in keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")
        super().__init__(
            "The hierarchy cannot be repacked.", f"{fault}: {named}.", "Repair the rows named, then start again."
        )
        self.fault, self.keys = fault, keys


class EnvironmentLocked(Permanent):
    """The environment's data is unavailable to everyone until its main key is given back."""

    code = "environment_locked"

    def __init__(self, *, environment: UUID, cause: str) -> None:
        super().__init__(
            f"Environment {environment} is locked.", f"Its main key is {cause}.", "Give the main key back."
        )
        self.environment, self.cause = environment, cause


class SchemaTooOld(Permanent):
    """The database's schema is not there yet, or lacks revisions that this program needs."""

    code = "schema_too_old"

    def __init__(self, *, found: str | None, needed: str) -> None:
        super().__init__(
            "The database is not ready.",
            f"Its schema is {found or 'not there yet'}; this program needs {needed}.",
            "Run `keyrepack migrate`.",
        )
        self.found, self.needed = found, needed


class ProgramTooOld(Permanent):
    """The database's schema was contracted past what this program knows."""

    code = "program_too_old"

    def __init__(self, *, found: str, known: str, oldest: str | None) -> None:
        needs = f"needs a program that knows {oldest}" if oldest else "does not say which programs it still serves"
        super().__init__(
            "This program is too old for its database.",
            f"The schema is {found} and {needs}; this program knows {known}.",
            "Run the release that the database was migrated by, or a newer one.",
        )
        self.found, self.known, self.oldest = found, known, oldest


class WitnessBroken(Permanent):
    """A file that is to witness what happened does not say it; nothing was changed."""

    code = "witness_broken"

    def __init__(self, *, file: str, line: int, why: str) -> None:
        super().__init__(
            f"{file} is no witness.",
            f"Line {line}: {why}.",
            "Give what `keyrepack audit export` says, or a certificate.",
        )
        self.file, self.line = file, line


class NotConfigured(Permanent):
    """A setting is missing without which this part stays closed."""

    code = "not_configured"


class LeaseLost(LostRace):
    """The shard is another worker's by now, or its repack no longer runs. What was not committed is void (R4)."""

    code = "lease_lost"

    def __init__(self, *, shard: int, why: str) -> None:
        super().__init__(f"The lease of shard {shard} is lost.", why, "Nothing to do: another worker has it.")
        self.shard = shard


class VersionGone(LostRace):
    """The wrapping version was shredded before the key could hang from it (R5)."""

    code = "version_gone"

    def __init__(self, *, key: UUID, version: int) -> None:
        super().__init__(f"Version {version} of key {key} is shredded.", "", "Take the active version.")
        self.key, self.version = key, version


class TopChanged(LostRace):
    """The environment's live top versions changed between the KMS's answer and the commit."""

    code = "top_changed"

    def __init__(self, *, environment: UUID) -> None:
        super().__init__(f"The top of environment {environment} changed meanwhile.", "", "Look again.")
        self.environment = environment


class AnotherStarted(LostRace):
    """Another repack of the environment was started first."""

    code = "another_started"

    def __init__(self) -> None:
        super().__init__("Another repack was started first.", "", "Look again.")
