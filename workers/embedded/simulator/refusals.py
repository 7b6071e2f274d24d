"""An error that AWS KMS would answer with."""

from __future__ import annotations

_STATUS = {"KMSInternalException": 500, "KeyUnavailableException": 500, "DependencyTimeoutException": 503}
"""The codes that are the KMS's own failures, from botocore's model; every other is the caller's, 400."""


class Refusal(Exception):
    """The call is answered with `code` and an HTTP status of 400 or above."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.code, self.message = code, message
        self.status = _STATUS.get(code, 400)

    def body(self) -> dict[str, str]:
        """What AWS's JSON protocol puts into the response."""
        return {"__type": self.code, "message": self.message}
