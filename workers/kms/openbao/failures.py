"""Translates failed answers of OpenBao's (or Vault's) transit engine: a table from its sentences to our words.

The API has no error codes: a status and sentences. Locked data is the price of reading "no" where there was none, so
only sentences that are a definite answer about the key refuse; a sentence that is not in the table is "no answer".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.keys import MainKeyUri
from workers.errors import Cause, KmsFailure, KmsRefused, KmsThrottled, KmsUnreachable, WrapReason, WrapRefused

TOO_MANY_REQUESTS = 429
TOO_OLD = "disallowed by policy (too old)"
"""Said of a generation below min_decryption_version: a revocation that can be taken back, unless it was trimmed."""

POLICY_DENIAL = ["1 error occurred:\n\t* permission denied\n\n"]
"""How a policy says no to a token that is valid. A token that is unknown, expired or revoked gets other sentences."""

REFUSALS: dict[str, Cause] = {
    "encryption key not found": Cause.DELETED,
    "unknown key type": Cause.DELETED,  # the answer to NEVER_CREATE, where there is no such key
    "no handler for route": Cause.DELETED,  # nothing is mounted there
    "soft-deleted key": Cause.PENDING_DELETION,
    "non-AEAD cipher suite": Cause.WRONG_USAGE,
    "missing 'context' for key derivation": Cause.WRONG_USAGE,
}
"""Found anywhere in a sentence of status 400 or 404."""

WRAP_REFUSALS = ("invalid ciphertext", "message authentication failed", "ciphertext unable to be decrypted")

_AEAD_TYPES = frozenset({"aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"})
"""Types that bind associated data (R6) with keys of 256 bits: a shorter one would weaken what it wraps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAnswer:
    """One answer. `data` of a success and `errors` of a failure; a body that is not the API's has neither."""

    status: int
    data: dict[str, object] | None = field(default=None, repr=False)  # R10: it may hold plaintext, or a token
    errors: list[str] | None = None

    @property
    def is_good(self) -> bool:
        """Return True if the answer holds what was asked for."""
        return self.status == 200 and self.data is not None

    def says(self, *sentences: str) -> bool:
        """Return True if any of the errors contains one of these sentences."""
        return any(sentence in error for error in self.errors or [] for sentence in sentences)


def translated(answer: ApiAnswer, main_key: MainKeyUri, operation: str) -> KmsFailure | WrapRefused:
    """Translate an answer into the error that crosses the port. A 403 alone is no answer: the caller must ask further
    first.
    """
    if answer.status == TOO_MANY_REQUESTS:
        return KmsThrottled(main_key=str(main_key), operation=operation, detail="OpenBao said 429.")
    if answer.status in {400, 404} and answer.errors is not None:
        if answer.says(*WRAP_REFUSALS):
            return WrapRefused(reason=WrapReason.DOES_NOT_OPEN)
        cause = next((cause for sentence, cause in REFUSALS.items() if answer.says(sentence)), None)
        if cause is None and answer.status == 404 and not answer.errors:
            cause = Cause.DELETED  # how a key that is not there reads
        if cause is not None:
            return refused(main_key, cause, operation, f"OpenBao said {answer.status}.")
    return KmsUnreachable(main_key=str(main_key), operation=operation, detail=f"OpenBao said {answer.status}.")


def refused(main_key: MainKeyUri, cause: Cause, operation: str, detail: str) -> KmsRefused:
    """Make a refusal, with the remedy in OpenBao's own words if they differ from others'."""
    mount, _, key = main_key.name.rpartition("/")
    remedies = {
        Cause.DENIED: f"Give the token's policy `update` on {mount}/encrypt/{key} and {mount}/decrypt/{key}, and "
        f"`read` on {mount}/keys/{key}.",
        Cause.WRONG_USAGE: f"Name a key of type {', '.join(sorted(_AEAD_TYPES))}, without derivation.",
        Cause.PENDING_DELETION: f"Restore the key: {mount}/keys/{key}/soft-delete-restore.",
        Cause.DELETED: "Check mount, key and namespace; a deleted key cannot be brought back.",
    }
    return KmsRefused(
        main_key=str(main_key), cause=cause, operation=operation, detail=detail, remedy=remedies.get(cause, "")
    )


def unusable(described: dict[str, object]) -> Cause | None:
    """Return why a key that was read cannot be used; None if it can."""
    if described.get("type") not in _AEAD_TYPES or described.get("derived"):
        return Cause.WRONG_USAGE
    return Cause.PENDING_DELETION if described.get("soft_deleted") else None


def is_policy_denial(answer: ApiAnswer) -> bool:
    """Return True if a policy said the 403, to a valid token."""
    return answer.status == 403 and answer.errors == POLICY_DENIAL
