"""Errors speak in sentences: what, why, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from schemas import errors as values
from schemas.errors import KeyrepackError
from workers import errors

ID = UUID("0198c0de-0000-7000-8000-000000000001")
BAD = errors.ProbeFinding(code="main_key_denied", ok=False, main_key="memory:b", cause="denied.", remedy="Allow it.")
GOOD = errors.ProbeFinding(code="main_key_usable", ok=True, main_key="memory:a", cause="it works")

EXAMPLES: list[KeyrepackError] = [
    values.MalformedMainKeyUri(uri="x", expected="managed:"),
    values.MalformedWrap("It has 3 bytes instead of 61."),
    values.IllegalMove(action="paused", state="finished", allowed=[]),
    values.IllegalMove(action="finished", state="paused", allowed=["moving", "renewing"]),
    values.EventRejected("too_large", "It has 70000 bytes."),
    errors.DatabaseAway("Connection refused."),
    errors.DatabaseFull("Its disk is full."),
    errors.TransactionConflict("It and another one waited for each other."),
    errors.UnknownWord(kind="state", word="hovering", of="Repack 1"),
    errors.SchemaTooOld(found=None, needed="0006"),
    errors.ProgramTooOld(found="0008", known="0006", oldest="0007"),
    errors.JournalBroken(file="audit.jsonl", line=3, why="it is not JSON"),
    errors.WrapRefused(reason=errors.WrapReason.DOES_NOT_OPEN, key=ID),
    errors.WrapRefused(reason=errors.WrapReason.MALFORMED),
    errors.ProbeFailed([GOOD, BAD]),
    errors.ProbeUnanswered([GOOD, BAD]),
    errors.RepackConflict(environment=ID, repack=ID, state="moving"),
    errors.AlreadyInForce(main_key="managed:"),
    errors.ReplacedTooSoon(environment=ID, next_at=datetime(2026, 1, 2, tzinfo=UTC)),
    errors.ProbeUnanswered([GOOD, BAD]),
    values.MalformedKey("It is not base64.", expected="whpk_"),
    errors.NotFound("environment", ID),
    errors.AlreadyThere("environment", "acme"),
    errors.HierarchyBroken(fault="These keys hang from themselves", keys=[ID]),
    errors.EnvironmentLocked(environment=ID, cause="revoked"),
    errors.NotConfigured("The managed key is closed.", "No file is named.", "Set KEYREPACK_MANAGED_KEY_FILE."),
    *(errors.UploadRefused(params=ID, fault=fault, why="It has 3 bytes.") for fault in errors.UploadFault),
    errors.UploadParamsSpent(params=ID, why="They held for 24 hours."),
    errors.LeaseLost(shard=7, why="Its lease ran out."),
    errors.VersionGone(key=ID, version=3),
    errors.TopChanged(environment=ID),
    errors.AnotherStarted(),
    *(errors.KmsRefused(main_key="memory:a", cause=cause, operation="wrap") for cause in errors.Cause),
    errors.KmsUnreachable(main_key="memory:a", operation="wrap"),
    errors.KmsThrottled(main_key="memory:a", operation="wrap"),
    errors.KmsBudgetSpent(main_key="memory:a", operation="wrap", detail="No room in 5 s."),
]


def leaves(kind: type[KeyrepackError]) -> set[type[KeyrepackError]]:
    below = {leaf for child in kind.__subclasses__() for leaf in leaves(child)}
    return below or {kind}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_says_what_and_what_to_do(error: KeyrepackError) -> None:
    """The text is what, why and remedy, each a sentence with its full stop; the code is one word."""
    assert str(error) == " ".join(part for part in (error.what, error.why, error.remedy) if part)
    assert error.what
    assert error.remedy
    for sentence in filter(None, (error.what, error.why, error.remedy)):
        assert sentence.endswith((".", ".>")), sentence
        assert ".." not in sentence
    assert error.code.replace("_", "").isalnum()
    assert error.code != "failed"


def test_every_kind_is_tried_here() -> None:
    """An error that is added to either tree is added to this table."""
    ours = {kind for kind in leaves(KeyrepackError) if kind.__module__ in (values.__name__, errors.__name__)}
    assert ours <= {type(error) for error in EXAMPLES}


def test_what_matters_is_read_off_the_class() -> None:
    """Each error of the workers is of one branch: transient, permanent or a lost race."""
    branches = (errors.Transient, errors.Permanent, errors.LostRace)
    for error in EXAMPLES:
        if type(error).__module__ == errors.__name__:
            assert sum(isinstance(error, branch) for branch in branches) == 1


def test_no_answer_is_no_refusal() -> None:
    """A KMS that is silent or asks to wait is transient; only a definite no is permanent."""
    assert issubclass(errors.KmsUnreachable, errors.Transient)
    assert issubclass(errors.KmsThrottled, errors.KmsUnreachable)
    assert not issubclass(errors.KmsRefused, errors.Transient)


@pytest.mark.parametrize("cause", errors.Cause)
def test_every_cause_has_a_remedy(cause: errors.Cause) -> None:
    """For each reason why a main key cannot be used there is a sentence of what to do, and a code of its own."""
    error = errors.KmsRefused(main_key="memory:a", cause=cause, operation="unwrap", detail="The KMS said so.")
    assert error.remedy == errors.REMEDIES[cause]
    assert error.code == f"main_key_{cause.value}"
    assert "unwrap was refused" in error.why
    assert error.why.endswith("The KMS said so.")


def test_a_failed_probe_tells_what_was_bad_alone() -> None:
    """A refused main key's error has the findings that are bad, the first one's code, and each remedy once."""
    error = errors.ProbeFailed([GOOD, BAD, BAD])
    assert error.code == "main_key_denied"
    assert "memory:a" not in str(error)
    assert error.remedy == "Allow it."
    assert error.findings == [GOOD, BAD, BAD]


def test_a_broken_hierarchy_names_ten_keys_and_counts_the_rest() -> None:
    """The message stays short however many keys are wrong; the error carries them all."""
    error = errors.HierarchyBroken(fault="Orphans", keys=[UUID(int=number) for number in range(25)])
    assert "and 15 more" in error.why
    assert len(error.keys) == 25


def test_a_refused_wrap_shows_no_bytes() -> None:
    """R10: the error of a wrap names the key and the reason, and has nothing of its bytes."""
    error = errors.WrapRefused(reason=errors.WrapReason.DOES_NOT_OPEN, key=ID)
    assert str(ID) in error.what
    assert vars(error).keys() == {"what", "why", "remedy", "reason", "key"}
