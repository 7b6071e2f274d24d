"""Credentials of a role in a customer's account: assumed when first needed, and again well before they expire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import aioboto3
from aiobotocore.credentials import AioCredentialResolver, AioDeferredRefreshableCredentials
from botocore.config import Config

from workers.kms.aws.access import RoleToAssume
from workers.kms.aws.sessions import new_session

SESSION_NAME = "keyrepack"
"""What CloudTrail shows a customer beside each call."""

DURATION_SECONDS = 900
"""The least that STS gives. A role whose trust is withdrawn is of no use after that; a key's policy counts at once."""

REFRESH_SECONDS = 300
"""How long before they expire credentials are renewed; meanwhile the old ones serve, should STS be away."""

LAST_SECONDS = 60
"""How long before they expire a call waits for new ones, and fails without: clocks differ, and calls take time."""

ASSUME_ROLE = "AssumeRole"

Count = Callable[[str, int], None]


class RoleNotAssumed(Exception):
    """AssumeRole failed, before the call to KMS that needed it. `error` is what STS, or the way to it, said."""

    def __init__(self, role: RoleToAssume, error: BaseException) -> None:
        super().__init__(f"AssumeRole of {role.arn} failed.")
        self.role, self.error = role, error


class RoleCredentials(AioDeferredRefreshableCredentials):
    """The SDK's own refreshable credentials, with our times."""

    _advisory_refresh_timeout = REFRESH_SECONDS
    _mandatory_refresh_timeout = LAST_SECONDS


class _Provider:
    """What a session asks for its credentials: the role's, never the environment's."""

    METHOD = CANONICAL_NAME = "keyrepack-assume-role"

    def __init__(self, credentials: RoleCredentials) -> None:
        self._credentials = credentials

    async def load(self) -> RoleCredentials:
        """See botocore.credentials.CredentialProvider."""
        return self._credentials


def role_session(role: RoleToAssume, region: str, config: Config, *, count: Count) -> aioboto3.Session:
    """Open a session that calls as `role`, through the STS of its own region: another region's outage does not matter.

    `count` hears of every call to STS. A failure to assume the role is raised by the call that needs it, as
    RoleNotAssumed.
    """
    credentials = RoleCredentials(refresh_using=_assuming(role, region, config, count), method=_Provider.METHOD)
    session = new_session()
    session.register_component("credential_provider", AioCredentialResolver(providers=[_Provider(credentials)]))
    return aioboto3.Session(botocore_session=session)


def _assuming(role: RoleToAssume, region: str, config: Config, count: Count) -> Callable[[], Awaitable[dict[str, Any]]]:
    wanted = {"RoleArn": role.arn, "RoleSessionName": SESSION_NAME, "DurationSeconds": DURATION_SECONDS}
    if role.external_id is not None:
        wanted["ExternalId"] = role.external_id

    async def assume() -> dict[str, Any]:
        try:
            async with aioboto3.Session(botocore_session=new_session()).client(
                "sts", region_name=region, config=config
            ) as sts:
                answer = await sts.assume_role(**wanted)
        except Exception as error:
            count(ASSUME_ROLE, attempts_of(error))
            raise RoleNotAssumed(role, error) from error
        count(ASSUME_ROLE, attempts_of(answer))
        given = answer["Credentials"]
        return {
            "access_key": given["AccessKeyId"],
            "secret_key": given["SecretAccessKey"],
            "token": given["SessionToken"],
            "expiry_time": given["Expiration"].isoformat(),
        }

    return assume


def attempts_of(answer: Any) -> int:
    """Count the tries that an answer, or a vendor's error, took."""
    told = getattr(answer, "response", answer)
    metadata = told.get("ResponseMetadata", {}) if isinstance(told, dict) else {}
    return 1 + int(metadata.get("RetryAttempts", 0))
