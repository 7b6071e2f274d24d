"""STS AssumeRole: roles, who may assume them, and the credentials that come of it.

A role is unknown, and so refused, until the control API makes it. STS speaks AWS's query protocol: a form in, XML out.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl
from uuid import uuid4
from xml.sax.saxutils import escape

from workers.embedded.simulator.clock import Clock
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.request import account_of, read_credential

ASSUME_ROLE = "AssumeRole"
MIN_SECONDS = 900
MAX_SECONDS = 43_200
DEFAULT_SECONDS = 3600
"""How long assumed credentials live (API_AssumeRole); a role's own maximum is not simulated."""

_ROLE_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/(?:[\w+=,.@-]+/)*(?P<name>[\w+=,.@-]+)"
)
_XMLNS = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass(frozen=True, slots=True, kw_only=True)
class StsCall:
    """One call to STS."""

    action: str
    region: str
    account: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, headers: Mapping[str, str], body: bytes) -> StsCall:
        """Read a request. Raises Refusal for one that is not signed."""
        access_key, region = read_credential(headers)
        form = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        return cls(action=form.get("Action", ""), region=region, account=account_of(access_key), parameters=form)

    @property
    def role_arn(self) -> str:
        """Return the role that the request is about."""
        return self.parameters.get("RoleArn", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumableRole:
    """A role: the accounts that its trust policy names, and the external id that it asks of them."""

    arn: str
    account: str
    trusts: frozenset[str]
    external_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSession:
    """Credentials of an assumed role."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    account: str
    expires_at: float


class Roles:
    """Every role, and the sessions that live."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._roles: dict[str, AssumableRole] = {}
        self._sessions: dict[str, RoleSession] = {}

    def put(self, arn: str, *, trusts: list[str], external_id: str | None = None) -> AssumableRole:
        """Make a role, or change its trust policy. Raises ValueError for an ARN that is no role's."""
        account = _parse_role(arn)["account"]
        self._roles[arn] = AssumableRole(arn=arn, account=account, trusts=frozenset(trusts), external_id=external_id)
        return self._roles[arn]

    def delete(self, arn: str) -> None:
        """Delete a role; its sessions live on until they expire, as AWS's do."""
        self._roles.pop(arn, None)

    def assume(self, call: StsCall) -> str:
        """AssumeRole, as XML. Raises Refusal AccessDenied where the trust policy does not let the caller."""
        if call.action != ASSUME_ROLE:
            raise Refusal("InvalidAction", f"The simulator has no {call.action}.")
        seconds = int(call.parameters.get("DurationSeconds", DEFAULT_SECONDS))
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            raise Refusal("ValidationError", f"DurationSeconds is {MIN_SECONDS} to {MAX_SECONDS}.")
        role = self._roles.get(call.role_arn)
        external_id = call.parameters.get("ExternalId")
        if role is None or call.account not in role.trusts or role.external_id not in {None, external_id}:
            user = f"User: arn:aws:iam::{call.account}:root is not authorized"
            raise Refusal("AccessDenied", f"{user} to perform: sts:AssumeRole on resource: {call.role_arn}")
        return _answer(self._open(role, seconds), role, call.parameters.get("RoleSessionName", ""))

    def account_of(self, access_key: str, token: str) -> str:
        """Whose calls these credentials make. Raises Refusal for those of a session that has ended, or never was."""
        if not access_key.startswith("ASIA"):
            return account_of(access_key)
        session = self._sessions.get(access_key)
        if session is None or not secrets.compare_digest(session.token, token):
            raise Refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
        if session.expires_at <= self._clock.now():
            raise Refusal("ExpiredTokenException", "The security token included in the request is expired")
        return session.account

    def _open(self, role: AssumableRole, seconds: int) -> RoleSession:
        now = self._clock.now()
        self._sessions = {key: each for key, each in self._sessions.items() if each.expires_at > now}
        session = RoleSession(
            access_key=f"ASIA{secrets.token_hex(8).upper()}",
            secret_key=secrets.token_urlsafe(30),
            token=secrets.token_urlsafe(60),
            account=role.account,
            expires_at=now + seconds,
        )
        self._sessions[session.access_key] = session
        return session


def as_xml(refusal: Refusal) -> str:
    """Return the error in STS's own shape."""
    told = f"<Type>Sender</Type><Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
    request = f"<RequestId>{uuid4()}</RequestId>"
    return f'<ErrorResponse xmlns="{_XMLNS}"><Error>{told}</Error>{request}</ErrorResponse>'


def _answer(session: RoleSession, role: AssumableRole, name: str) -> str:
    expiration = datetime.fromtimestamp(session.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    parts = _parse_role(role.arn)
    user = f"arn:{parts['partition']}:sts::{role.account}:assumed-role/{parts['name']}/{escape(name)}"
    credentials = (
        f"<AccessKeyId>{session.access_key}</AccessKeyId><SecretAccessKey>{session.secret_key}</SecretAccessKey>"
        f"<SessionToken>{session.token}</SessionToken><Expiration>{expiration}</Expiration>"
    )
    assumed = f"<AssumedRoleId>AROASIMULATOR:{escape(name)}</AssumedRoleId><Arn>{user}</Arn>"
    result = f"<AssumedRoleUser>{assumed}</AssumedRoleUser><Credentials>{credentials}</Credentials>"
    metadata = f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata>"
    return (
        f'<AssumeRoleResponse xmlns="{_XMLNS}"><AssumeRoleResult>{result}</AssumeRoleResult>'
        f"{metadata}</AssumeRoleResponse>"
    )


def _parse_role(arn: str) -> re.Match[str]:
    found = _ROLE_ARN.fullmatch(arn)
    if found is None:
        raise ValueError(f"{arn!r} is not a role's ARN.")
    return found
