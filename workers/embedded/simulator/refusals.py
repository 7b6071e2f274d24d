"""An error that AWS KMS or STS would answer with."""

from __future__ import annotations

import json

_STATUS = {
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
    "DependencyTimeoutException": 503,
    "AccessDenied": 403,
}
"""The codes that are the KMS's own failures, from botocore's model, and STS's denial; every other is 400."""


class Refusal(Exception):
    """The call is answered with `code` and an HTTP status of 400 or above."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.code, self.message = code, message
        self.status = _STATUS.get(code, 400)


def as_json(refusal: Refusal) -> str:
    """Return what AWS's JSON protocol puts into the response."""
    return json.dumps({"__type": refusal.code, "message": refusal.message})
