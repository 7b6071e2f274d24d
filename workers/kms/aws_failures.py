"""What a failure of AWS KMS means: a table from its error codes to our words.

Locked data is the price of reading "no" where there was none, so only codes that are a definite answer about the key
are a refusal; our own bad credentials, a server's failure and whatever is not in the table are "no answer".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from schemas.keys import MainKeyUri
from workers.errors import Cause, KmsFailure, KmsRefused, KmsThrottled, KmsUnreachable, WrapReason, WrapRefused

VENDOR_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, TimeoutError, OSError)
"""All that a call can raise. TimeoutError is our own deadline's."""

REFUSALS: dict[str, Cause] = {
    "AccessDeniedException": Cause.DENIED,
    "InvalidGrantTokenException": Cause.DENIED,
    "DisabledException": Cause.DISABLED,
    "KMSInvalidStateException": Cause.UNAVAILABLE,
    "NotFoundException": Cause.DELETED,
    "InvalidArnException": Cause.DELETED,
    "InvalidKeyUsageException": Cause.WRONG_USAGE,
    "UnsupportedOperationException": Cause.WRONG_USAGE,
}
STATE_CODES = frozenset({"DisabledException", "KMSInvalidStateException"})
"""These say that the key's state refuses, not which state: DescribeKey tells."""

THROTTLES = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "LimitExceededException",
        "TooManyRequestsException",
        "SlowDown",
    }
)
WRAP_REFUSALS: dict[str, WrapReason] = {
    "InvalidCiphertextException": WrapReason.DOES_NOT_OPEN,
    "IncorrectKeyException": WrapReason.DOES_NOT_OPEN,
}
OWN_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""AWS does not know who we are: says nothing about the customer's key, so it must not lock anything."""

_STATES: dict[str, Cause] = {
    "Disabled": Cause.DISABLED,
    "PendingDeletion": Cause.PENDING_DELETION,
    "PendingReplicaDeletion": Cause.PENDING_DELETION,
    "PendingImport": Cause.PENDING_IMPORT,
}
_DETAIL_CHARACTERS = 300
"""AWS's own words on a denial name principal, action and key: enough to mend a policy by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed call. `code` is AWS's, or the name of the client's own error."""

    main_key: MainKeyUri
    operation: str
    code: str
    message: str = ""

    @classmethod
    def of(cls, error: BaseException, *, main_key: MainKeyUri, operation: str) -> Failure:
        """Read a vendor's error."""
        if isinstance(error, HTTPClientError):  # R10: it holds the request, and that may hold plaintext
            error.request = None
            error.kwargs.pop("request", None)
        if isinstance(error, ClientError):
            told = error.response.get("Error", {})
            code, message = str(told.get("Code", "")), str(told.get("Message", ""))
            return cls(main_key=main_key, operation=operation, code=code, message=message)
        return cls(main_key=main_key, operation=operation, code=type(error).__name__)

    @property
    def cause(self) -> Cause | None:
        """The cause, where the code is a definite answer about the key."""
        return REFUSALS.get(self.code)

    def translated(self) -> KmsFailure | WrapRefused:
        """The error that crosses the port."""
        reason, cause = WRAP_REFUSALS.get(self.code), self.cause
        if reason is not None:
            return WrapRefused(reason=reason)
        if cause is not None:
            return self.refused(cause)
        if self.code in THROTTLES:
            return KmsThrottled(main_key=str(self.main_key), operation=self.operation, detail=self.code)
        own = " keyrepack's own AWS credentials were not accepted." if self.code in OWN_CREDENTIALS else ""
        return KmsUnreachable(main_key=str(self.main_key), operation=self.operation, detail=f"{self.code}.{own}")

    def refused(self, cause: Cause, main_key: MainKeyUri | None = None) -> KmsRefused:
        """A refusal with this cause, of this key or of another that the call named."""
        said = f": {self.message[:_DETAIL_CHARACTERS]}" if cause is Cause.DENIED and self.message else "."
        detail = f"AWS said {self.code}{said}"
        return KmsRefused(main_key=str(main_key or self.main_key), cause=cause, operation=self.operation, detail=detail)

    def changing(self) -> KmsUnreachable:
        """For a refusal that DescribeKey contradicts: the key's state is changing, and another try will tell."""
        detail = f"AWS said {self.code}, and then that the key is enabled."
        return KmsUnreachable(main_key=str(self.main_key), operation=self.operation, detail=detail)


def unusable(metadata: Mapping[str, Any]) -> Cause | None:
    """Why a key that DescribeKey tells of cannot be used; None where it can. A state new to us is no consent."""
    if metadata.get("KeySpec") != "SYMMETRIC_DEFAULT" or metadata.get("KeyUsage") != "ENCRYPT_DECRYPT":
        return Cause.WRONG_USAGE
    state = str(metadata.get("KeyState"))
    return None if state == "Enabled" else _STATES.get(state, Cause.UNAVAILABLE)
