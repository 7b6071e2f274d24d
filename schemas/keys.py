"""The words for keys: main keys by URI, kinds of keys, states of their versions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from schemas.errors import MalformedMainKeyUri

KEY_BYTES = 32
"""Every wrapping and data key is 256 bits of material for AES-256-GCM."""

MAX_LEVELS = 8
"""How deep a hierarchy may be, roots being level 1: enough for any tree we have met, small enough to walk by level."""

MAX_URI_LENGTH = 512
"""An ARN is at most about 200 characters; the rest is for other schemes."""


class KeyKind(StrEnum):
    """What a key does: `wrapping` keys wrap other keys, `data` keys encrypt data and are leaves."""

    WRAPPING = "wrapping"
    DATA = "data"


class VersionState(StrEnum):
    """The life of one version of a wrapping key."""

    ACTIVE = "active"  # new keys are wrapped by it
    DRAINING = "draining"  # still opens what is wrapped under it; nothing new is wrapped by it
    SHREDDED = "shredded"  # its wrap is deleted; proven that nothing was wrapped under it


class TopState(StrEnum):
    """The life of one version of an environment's top: a main key at one generation."""

    ACTIVE = "active"
    DRAINING = "draining"  # the main key a move leaves: every root keeps its wrap under it until the move closes
    RETIRED = "retired"  # the move has closed; needed for nothing
    WITHDRAWN = "withdrawn"  # the main key a move was going to when it was aborted


_PATTERNS = {
    "managed": re.compile(r""),
    "aws-kms": re.compile(
        r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d):(?P<account>\d{12}):key/"
        r"(?P<key>mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    ),
    "uploaded": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    # No part is `.` or `..`: the name becomes a path on a server.
    "openbao": re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9_.-]{1,64}(?:/[A-Za-z0-9_.-]{1,64})+"),
    "memory": re.compile(r"[A-Za-z0-9_.-]{1,64}"),
}

_FORMS = {
    "managed": "managed:",
    "aws-kms": "aws-kms:arn:aws:kms:<region>:<account>:key/<key id>",
    "uploaded": "uploaded:<id>",
    "openbao": "openbao:<mount>/<key>",
    "memory": "memory:<name>",
}


@dataclass(frozen=True, slots=True, order=True)
class MainKeyUri:
    """The name of a main key: which KMS (`scheme`) and which key there (`name`)."""

    scheme: str
    name: str

    @classmethod
    def parse(cls, text: str) -> MainKeyUri:
        """Read a URI such as `managed:` or `aws-kms:arn:aws:kms:eu-west-1:111122223333:key/…`.

        Raises MalformedMainKeyUri, which says what form was expected.
        """
        scheme, colon, name = text.partition(":")
        if len(text) > MAX_URI_LENGTH or not colon or scheme not in _PATTERNS:
            raise MalformedMainKeyUri(uri=text[:MAX_URI_LENGTH], expected=" or ".join(_FORMS.values()))
        if not _PATTERNS[scheme].fullmatch(name):
            raise MalformedMainKeyUri(uri=text, expected=_FORMS[scheme])
        return cls(scheme, name)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"


MANAGED = MainKeyUri("managed", "")
"""The platform's own main key: an environment's until its customer brings one."""


@dataclass(frozen=True, slots=True)
class AwsKeyArn:
    """The parts of an AWS KMS key ARN."""

    partition: str
    region: str
    account: str
    key: str

    @classmethod
    def of(cls, uri: MainKeyUri) -> AwsKeyArn:
        """Read the ARN that an `aws-kms:` URI names. Raises MalformedMainKeyUri for any other scheme."""
        match = _PATTERNS["aws-kms"].fullmatch(uri.name) if uri.scheme == "aws-kms" else None
        if match is None:
            raise MalformedMainKeyUri(uri=str(uri), expected=_FORMS["aws-kms"])
        return cls(**match.groupdict())

    def in_region(self, region: str | None) -> AwsKeyArn | None:
        """Return the same multi-region key in another region; None for a single-region key, and for its own region."""
        if region is None or region == self.region or not self.key.startswith("mrk-"):
            return None
        return replace(self, region=region)

    def __str__(self) -> str:
        return f"arn:{self.partition}:kms:{self.region}:{self.account}:key/{self.key}"
