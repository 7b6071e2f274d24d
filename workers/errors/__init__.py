"""Errors, drawn as a tree: what matters is read off the class.

One file per subject: `kms`, `database`, `wraps`, `repacks`, `uploads`, `names`, `races`; import from here.

KeyrepackError
├── Transient                 try again: nothing is known to be wrong
│   ├── KmsUnreachable        the KMS did not answer: not a revocation
│   │   └── KmsThrottled          it answered "too fast"
│   │       └── KmsBudgetSpent        our own budget of calls is spent: the KMS was not asked
│   ├── ProbeUnanswered       a new main key was probed, and its KMS or the old one's did not answer: `findings`
│   ├── UnknownWord           a row has a word that a newer program wrote: that one goes on with it
│   └── DatabaseFailed        the database did not do it; nothing of the transaction is stored
│       ├── DatabaseAway          it did not answer
│       ├── DatabaseFull          its disk is full
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
│   ├── JournalBroken         a file that should tell what happened cannot be read (`line`)
│   └── NotConfigured         a setting without which we stay closed
└── LostRace                  another process was first: drop what you hold and read again
    ├── LeaseLost             the shard is another worker's, or its repack no longer runs
    ├── VersionGone           the wrapping version was shredded meanwhile (R5)
    ├── TopChanged            the environment's top changed meanwhile
    └── AnotherStarted        another repack of the environment was started first
"""

from __future__ import annotations

from workers.errors.database import (
    DatabaseAway,
    DatabaseFailed,
    DatabaseFull,
    ProgramTooOld,
    SchemaTooOld,
    TransactionConflict,
    UnknownWord,
)
from workers.errors.kinds import (
    LostRace,
    Permanent,
    Transient,
)
from workers.errors.kms import (
    REMEDIES,
    Cause,
    Denial,
    DeniedBy,
    KmsBudgetSpent,
    KmsFailure,
    KmsRefused,
    KmsThrottled,
    KmsUnreachable,
    ProbeFailed,
    ProbeFinding,
    ProbeUnanswered,
)
from workers.errors.names import AlreadyThere, JournalBroken, NotConfigured, NotFound
from workers.errors.races import (
    AnotherStarted,
    LeaseLost,
    TopChanged,
    VersionGone,
)
from workers.errors.repacks import (
    AlreadyInForce,
    EnvironmentLocked,
    HierarchyBroken,
    RepackConflict,
    ReplacedTooSoon,
)
from workers.errors.uploads import (
    UploadFault,
    UploadParamsSpent,
    UploadRefused,
)
from workers.errors.wraps import (
    WrapReason,
    WrapRefused,
)

__all__ = [
    "REMEDIES",
    "AlreadyInForce",
    "AlreadyThere",
    "AnotherStarted",
    "Cause",
    "DatabaseAway",
    "DatabaseFailed",
    "DatabaseFull",
    "Denial",
    "DeniedBy",
    "EnvironmentLocked",
    "HierarchyBroken",
    "JournalBroken",
    "KmsBudgetSpent",
    "KmsFailure",
    "KmsRefused",
    "KmsThrottled",
    "KmsUnreachable",
    "LeaseLost",
    "LostRace",
    "NotConfigured",
    "NotFound",
    "Permanent",
    "ProbeFailed",
    "ProbeFinding",
    "ProbeUnanswered",
    "ProgramTooOld",
    "RepackConflict",
    "ReplacedTooSoon",
    "SchemaTooOld",
    "TopChanged",
    "TransactionConflict",
    "Transient",
    "UnknownWord",
    "UploadFault",
    "UploadParamsSpent",
    "UploadRefused",
    "VersionGone",
    "WrapReason",
    "WrapRefused",
]
