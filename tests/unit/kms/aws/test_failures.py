"""The table from AWS's error codes to our words."""

from __future__ import annotations

import aiohttp
import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from schemas.keys import MainKeyUri
from workers.errors import Cause, Denial, DeniedBy, KmsRefused, KmsThrottled, KmsUnreachable, WrapReason, WrapRefused
from workers.kms.aws.failures import OWN_CREDENTIALS, REFUSALS, THROTTLES, Failure, unusable

KEY = MainKeyUri.parse("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab")


def failure_of(error: BaseException) -> Failure:
    return Failure.of(error, main_key=KEY, operation="Decrypt")


def answered(code: str, message: str = "") -> Failure:
    return failure_of(ClientError({"Error": {"Code": code, "Message": message}}, "Decrypt"))


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("AccessDenied", Cause.DENIED),
        ("AccessDeniedException", Cause.DENIED),
        ("InvalidGrantTokenException", Cause.DENIED),
        ("DisabledException", Cause.DISABLED),
        ("KMSInvalidStateException", Cause.UNAVAILABLE),
        ("NotFoundException", Cause.DELETED),
        ("InvalidArnException", Cause.DELETED),
        ("InvalidKeyUsageException", Cause.WRONG_USAGE),
        ("UnsupportedOperationException", Cause.WRONG_USAGE),
    ],
)
def test_a_definite_answer_about_the_key_is_a_refusal(code: str, cause: Cause) -> None:
    """A code that says the key may not be used is a refusal with its cause, and AWS's code for who has to mend it."""
    error = answered(code).translated()
    assert isinstance(error, KmsRefused)
    assert (error.cause, error.main_key, error.operation) == (cause, str(KEY), "Decrypt")
    assert code in str(error)


def test_the_table_of_refusals_is_all_tested() -> None:
    """No code is read as a refusal that the test above does not name."""
    assert len(REFUSALS) == 9


@pytest.mark.parametrize("code", ["InvalidCiphertextException", "IncorrectKeyException"])
def test_bytes_that_do_not_open_are_no_refusal_of_the_key(code: str) -> None:
    """The key is fine where the bytes are not."""
    error = answered(code).translated()
    assert isinstance(error, WrapRefused)
    assert error.reason is WrapReason.DOES_NOT_OPEN


@pytest.mark.parametrize("code", sorted(THROTTLES))
def test_throttling_is_told_apart(code: str) -> None:
    """A code that asks for fewer calls is KmsThrottled."""
    assert isinstance(answered(code).translated(), KmsThrottled)


@pytest.mark.parametrize(
    "code",
    ["KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException", "500", "ServiceUnavailable", ""],
)
def test_a_failure_of_the_kms_is_no_answer(code: str) -> None:
    """The KMS's own failures, and codes nobody has heard of, conclude nothing about the key."""
    error = answered(code).translated()
    assert isinstance(error, KmsUnreachable)
    assert not isinstance(error, KmsThrottled)


@pytest.mark.parametrize("code", sorted(OWN_CREDENTIALS))
def test_our_own_bad_credentials_lock_nobody_out(code: str) -> None:
    """AWS not knowing us is not the customer's refusal: nothing is locked for it, and the message says whose fault."""
    error = answered(code).translated()
    assert isinstance(error, KmsUnreachable)
    assert "own AWS credentials" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="https://kms"),
        ConnectTimeoutError(endpoint_url="https://kms"),
        ReadTimeoutError(endpoint_url="https://kms"),
        ConnectionClosedError(endpoint_url="https://kms"),
        NoCredentialsError(),
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_connection_is_no_answer(error: BaseException) -> None:
    """Whatever the client raises without an answer is unreachable, and its kind is named."""
    translated = failure_of(error).translated()
    assert isinstance(translated, KmsUnreachable)
    assert type(error).__name__ in str(translated)


def test_a_denial_tells_what_aws_said() -> None:
    """AWS's words on a denial name principal and action, so they are passed on; at most so many of them."""
    error = answered("AccessDeniedException", "User: arn:aws:sts::1:x is not authorized" + "!" * 1000).translated()
    assert isinstance(error, KmsRefused)
    assert "User: arn:aws:sts::1:x" in error.detail
    assert len(error.detail) < 400


SESSION = "User: arn:aws:sts::123456789012:assumed-role/keyrepack/i-1 is not authorized to perform: kms:Decrypt on"


@pytest.mark.parametrize(
    ("rest", "by"),
    [
        ("because no resource-based policy allows the kms:Decrypt action", DeniedBy.KEY_POLICY),
        ("because no identity-based policy allows the kms:Decrypt action", DeniedBy.OWN_POLICY),
        ("with an explicit deny in a resource-based policy", DeniedBy.EXPLICIT_DENY),
        ("", DeniedBy.KEY_POLICY),
    ],
)
def test_a_denial_says_what_whom_and_by_whose_policy(rest: str, by: DeniedBy) -> None:
    """Action and principal are AWS's words, an assumed role's session as the role; the remedy goes to whose it is."""
    error = answered("AccessDeniedException", f"{SESSION} resource: {KEY.name} {rest}").translated()
    assert isinstance(error, KmsRefused)
    role = "arn:aws:iam::123456789012:role/keyrepack"
    assert error.denial == Denial(action="kms:Decrypt", resource=KEY.name, principal=role, by=by)
    assert "kms:Decrypt" in error.remedy
    assert role in error.remedy


@pytest.mark.parametrize(("operation", "action"), [("Decrypt", "kms:Decrypt"), ("ReEncrypt", "kms:ReEncrypt*")])
def test_a_denial_without_words_is_told_by_its_call(operation: str, action: str) -> None:
    """Where AWS says no more than that it is denied, the call tells the action, and nobody is named."""
    error = Failure(main_key=KEY, operation=operation, code="AccessDeniedException").translated()
    assert isinstance(error, KmsRefused)
    assert error.denial == Denial(action=action, resource=KEY.name, principal="", by=DeniedBy.KEY_POLICY)


def test_a_vendors_error_lets_go_of_the_request() -> None:
    """A client's error holds the request, and that may hold plaintext: it is taken out before it is chained (R10)."""
    request = AWSRequest(method="POST", url="https://kms", data=b"plaintext")
    error = ConnectionClosedError(endpoint_url="https://kms", request=request)
    failure_of(error)
    assert error.request is None
    assert "request" not in error.kwargs


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({}, None),
        ({"KeyState": "Disabled"}, Cause.DISABLED),
        ({"KeyState": "PendingDeletion"}, Cause.PENDING_DELETION),
        ({"KeyState": "PendingReplicaDeletion"}, Cause.PENDING_DELETION),
        ({"KeyState": "PendingImport"}, Cause.PENDING_IMPORT),
        ({"KeyState": "Unavailable"}, Cause.UNAVAILABLE),
        ({"KeyState": "Creating"}, Cause.UNAVAILABLE),
        ({"KeyState": "Updating"}, Cause.UNAVAILABLE),
        ({"KeyState": "Unheard"}, Cause.UNAVAILABLE),
        ({"KeySpec": "RSA_2048"}, Cause.WRONG_USAGE),
        ({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, Cause.WRONG_USAGE),
        ({"KeyUsage": "SIGN_VERIFY", "KeyState": "Disabled"}, Cause.WRONG_USAGE),
    ],
)
def test_a_description_tells_why_a_key_is_unusable(metadata: dict[str, str], cause: Cause | None) -> None:
    """Every state but Enabled has its cause; a key of another kind is of no use in any state."""
    whole = {"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled", **metadata}
    assert unusable(whole) is cause
