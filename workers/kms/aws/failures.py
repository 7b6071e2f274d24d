"""Translates failures of AWS KMS: a table from its error codes to our words.

Locked data is the price of reading "no" where there was none, so only codes that are a definite answer about the key
are a refusal; our own bad credentials, a server's failure and whatever is not in the table are "no answer".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

from schemas.keys import MainKeyUri
from workers.errors import (
    Cause,
    Denial,
    DeniedBy,
    KmsFailure,
    KmsRefused,
    KmsThrottled,
    KmsUnreachable,
    WrapReason,
    WrapRefused,
)
from workers.kms.aws.access import RoleToAssume
from workers.kms.aws.permissions import ACTIONS
from workers.kms.aws.roles import ASSUME_ROLE, RoleNotAssumed

VENDOR_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, TimeoutError, OSError, RoleNotAssumed)
"""All that a call can raise. TimeoutError is our own deadline's."""

_SILENCES = (HTTPClientError, ConnectionError, aiohttp.ClientError, TimeoutError, OSError)
"""Of these, the ones that mean that no answer came. Others are AWS's own, or say that we never asked."""

_SERVER_FAULT = 500
"""HTTP statuses from here on: the service itself fails."""

REFUSALS: dict[str, Cause] = {
    "AccessDenied": Cause.DENIED,  # STS's
    "AccessDeniedException": Cause.DENIED,
    "InvalidGrantTokenException": Cause.DENIED,
    "DisabledException": Cause.DISABLED,
    "KMSInvalidStateException": Cause.UNAVAILABLE,
    "NotFoundException": Cause.DELETED,
    "InvalidArnException": Cause.DELETED,
    "InvalidKeyUsageException": Cause.WRONG_USAGE,
    "UnsupportedOperationException": Cause.WRONG_USAGE,
}
_DENIALS = frozenset({"AccessDenied", "AccessDeniedException"})
STATE_CODES = frozenset({"DisabledException", "KMSInvalidStateException"})
"""These say that the key's state refuses, not which state: DescribeKey says which."""

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

_DENIAL = re.compile(r"User: (?P<user>arn:\S+) is not authorized to perform: (?P<action>(?:kms|sts):\w+)")
_SESSION_ARN = re.compile(r"arn:(?P<partition>[a-z-]+):sts::(?P<account>\d{12}):assumed-role/(?P<name>[^/]+)/.+")


class RegionUnanswered(KmsUnreachable):
    """Nothing was refused, and nothing done: the region gave no answer, or said that it fails itself.

    A backup key may be asked after this one alone.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed call. `code` is AWS's, or the name of the client's own error; `role` is the one it was made as.

    `is_silence`: no answer came at all. `is_fault`: the service answered that it fails itself.
    """

    main_key: MainKeyUri
    operation: str
    code: str
    message: str = ""
    role: RoleToAssume | None = None
    is_silence: bool = False
    is_fault: bool = False

    @classmethod
    def of(
        cls, error: BaseException, *, main_key: MainKeyUri, operation: str, role: RoleToAssume | None = None
    ) -> Failure:
        """Read a vendor's error."""
        if isinstance(error, RoleNotAssumed):
            return cls.of(error.error, main_key=main_key, operation=ASSUME_ROLE, role=error.role)
        if isinstance(error, HTTPClientError):  # R10: it holds the request, and that may hold plaintext
            error.request = None
            error.kwargs.pop("request", None)
        if not isinstance(error, ClientError):
            is_silence = isinstance(error, _SILENCES)
            name = type(error).__name__
            return cls(main_key=main_key, operation=operation, code=name, role=role, is_silence=is_silence)
        told = error.response.get("Error", {})
        return cls(
            main_key=main_key,
            operation=operation,
            code=str(told.get("Code", "")),
            message=str(told.get("Message", "")),
            role=role,
            is_fault=int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= _SERVER_FAULT,
        )

    @property
    def cause(self) -> Cause | None:
        """Return the cause, if the code is a definite answer about the key."""
        return REFUSALS.get(self.code)

    def translated(self) -> KmsFailure | WrapRefused:
        """Translate a vendor's error into the one that crosses the port."""
        reason, cause = WRAP_REFUSALS.get(self.code), self.cause
        if reason is not None:
            return WrapRefused(reason=reason)
        if cause is not None:
            return self.refused(cause)
        if self.code in THROTTLES:
            return KmsThrottled(main_key=str(self.main_key), operation=self.operation, detail=self.code)
        own = " keyrepack's own AWS credentials were not accepted." if self.code in OWN_CREDENTIALS else ""
        kind = RegionUnanswered if self.is_silence or self.is_fault else KmsUnreachable
        return kind(main_key=str(self.main_key), operation=self.operation, detail=f"{self.code}.{own}")

    def refused(self, cause: Cause, main_key: MainKeyUri | None = None) -> KmsRefused:
        """Make a refusal with this cause, of this key or of another that the call named."""
        said = f": {self.message[:_DETAIL_CHARACTERS]}" if cause is Cause.DENIED and self.message else "."
        key = main_key or self.main_key
        denial = self._denial(key) if cause is Cause.DENIED and self.code in _DENIALS else None
        return KmsRefused(
            main_key=str(key),
            cause=cause,
            operation=self.operation,
            detail=f"AWS said {self.code}{said}",
            remedy=_remedy(denial),
            denial=denial,
        )

    def _denial(self, key: MainKeyUri) -> Denial:
        """Describe what was denied, in AWS's words; where those do not say it, by the call that was made."""
        told = _DENIAL.search(self.message)
        principal = _principal(told["user"]) if told else ""
        if self.operation == ASSUME_ROLE and self.role is not None:
            by = _denied_by(self.message, DeniedBy.TRUST_POLICY)
            role, external_id = self.role.arn, self.role.external_id
            return Denial(action="sts:AssumeRole", resource=role, principal=principal, by=by, external_id=external_id)
        actions = ACTIONS.get(self.operation, ())
        action = told["action"] if told else actions[0] if len(actions) == 1 else f"kms:{self.operation}*"
        principal = self.role.arn if self.role is not None else principal  # an assumed role's ARN lacks its path
        by = _denied_by(self.message, DeniedBy.KEY_POLICY)
        return Denial(action=action, resource=key.name, principal=principal, by=by)

    def unsettled(self, why: str) -> KmsUnreachable:
        """Make the error for a refusal of which DescribeKey could not say more. Not RegionUnanswered: the first answer
        was a no.
        """
        detail = f"AWS said {self.code}; DescribeKey was not answered. {why}"
        return KmsUnreachable(main_key=str(self.main_key), operation=self.operation, detail=detail)

    def changing(self) -> KmsUnreachable:
        """Make the error for a refusal that DescribeKey contradicts: the key's state is changing, and another try will
        show it.
        """
        detail = f"AWS said {self.code}, and then that the key is enabled."
        return KmsUnreachable(main_key=str(self.main_key), operation=self.operation, detail=detail)


def _denied_by(message: str, usual: DeniedBy) -> DeniedBy:
    """Whose policy, where AWS says so; across accounts it mostly does not."""
    if "with an explicit deny" in message:
        return DeniedBy.EXPLICIT_DENY
    return DeniedBy.OWN_POLICY if "no identity-based policy allows" in message else usual


def _principal(user: str) -> str:
    """Whom a policy would name: of an assumed role's session, the role. (Its path is not reported.)"""
    session = _SESSION_ARN.fullmatch(user)
    return f"arn:{session['partition']}:iam::{session['account']}:role/{session['name']}" if session else user


def _remedy(denial: Denial | None) -> str:
    """Return what to do about a denial; empty: the cause's usual remedy."""
    if denial is None:
        return ""
    who = denial.principal or "keyrepack's principal"
    if denial.by is DeniedBy.EXPLICIT_DENY:
        return f"Take out the statement that denies {denial.action} to {who}, or except {who} from it."
    if denial.by is DeniedBy.OWN_POLICY:
        return f"Allow {denial.action} on {denial.resource} in the policy of {who}: it is keyrepack's operator's."
    if denial.by is DeniedBy.TRUST_POLICY:
        asked = f" with the external id {denial.external_id}" if denial.external_id else " without an external id"
        return f"Allow {who} in the trust policy of {denial.resource},{asked}, or correct the AWS access file."
    return f"Allow {denial.action} to {who} in the key's policy, as `keyrepack main-key policy` says."


def unusable(metadata: Mapping[str, Any]) -> Cause | None:
    """Return why a key that DescribeKey describes cannot be used; None if it can. A state new to us is no consent."""
    if metadata.get("KeySpec") != "SYMMETRIC_DEFAULT" or metadata.get("KeyUsage") != "ENCRYPT_DECRYPT":
        return Cause.WRONG_USAGE
    state = str(metadata.get("KeyState"))
    return None if state == "Enabled" else _STATES.get(state, Cause.UNAVAILABLE)
