"""Refusals of the dashboard itself, and the HTTP status of everything that can go wrong."""

from __future__ import annotations

from pydantic import ValidationError

from producers.publisher import BrokerAway
from schemas.errors import EventRejected, IllegalMove, KeyrepackError
from schemas.events import first_error
from workers.dashboard.auth.users import Role
from workers.errors import (
    AlreadyInForce,
    AlreadyThere,
    EnvironmentLocked,
    LostRace,
    NotConfigured,
    NotFound,
    RepackConflict,
    ReplacedTooSoon,
    Transient,
)


class SignInNeeded(KeyrepackError):
    """No user is signed in, or the session has ended."""

    code = "sign_in_needed"

    def __init__(self) -> None:
        super().__init__("You are not signed in.", "There is no session, or it has ended.", "Sign in.")


class MustChoose(KeyrepackError):
    """Signed in by a one-time password."""

    code = "must_choose_password"

    def __init__(self) -> None:
        super().__init__("Choose a password first.", "You signed in by one that holds once.", "Choose one.")


class NotAllowed(KeyrepackError):
    """The visitor's role is not enough."""

    code = "not_permitted"

    def __init__(self, role: Role, needed: Role) -> None:
        super().__init__(
            "You may not do that.",
            f"It needs the role {needed.value}; yours is {role.value}.",
            f"Ask somebody who has the role {needed.value}.",
        )


class ForgedRequest(KeyrepackError):
    """A request that changes something and does not come from a page of this session."""

    code = "forged_request"

    def __init__(self, why: str) -> None:
        super().__init__("Nothing was done.", why, "Load the page again and repeat it there.")


class TooManyAttempts(KeyrepackError):
    """Too many wrong passwords."""

    code = "too_many_attempts"

    def __init__(self, wait: float) -> None:
        super().__init__(
            "You were not signed in.", "There were too many wrong tries.", f"Wait {wait / 60:.0f} min, then try again."
        )
        self.wait = wait


class WrongPassword(KeyrepackError):
    """Name or password is wrong; which of them is not said."""

    code = "wrong_password"

    def __init__(self) -> None:
        super().__init__("You were not signed in.", "Name or password is wrong.", "Try again.")


class Malformed(KeyrepackError):
    """What was sent is not what is asked for."""

    code = "malformed_request"

    @classmethod
    def of(cls, error: ValidationError) -> Malformed:
        """Describe the first thing that is wrong, by field; never the value."""
        return cls("The request was not understood.", first_error(error), "Correct it and send it again.")


class TooLarge(KeyrepackError):
    """More bytes than anything asked for here has."""

    code = "too_large"

    def __init__(self, limit: int) -> None:
        super().__init__("The request was not read.", f"It has more than {limit} bytes.", "Send less.")


class WrongKind(KeyrepackError):
    """A body of another kind than what is asked for."""

    code = "wrong_content_type"

    def __init__(self, wanted: str) -> None:
        super().__init__("The request was not read.", f"Its body is not {wanted}.", f"Send {wanted}.")


STATUSES: tuple[tuple[type[KeyrepackError], int], ...] = (
    (SignInNeeded, 401), (WrongPassword, 401), (MustChoose, 403), (NotAllowed, 403), (ForgedRequest, 403),
    (TooManyAttempts, 429), (TooLarge, 413), (WrongKind, 415), (NotFound, 404), (AlreadyThere, 409),
    (AlreadyInForce, 409), (RepackConflict, 409), (ReplacedTooSoon, 409), (EnvironmentLocked, 409), (IllegalMove, 409),
    (LostRace, 409), (Transient, 503), (BrokerAway, 503), (NotConfigured, 503),
)  # fmt: skip

UNEXPECTED = "unexpected"

EVENT_STATUSES = {
    "too_large": 413, "unknown_source": 401, "unsigned": 401, "bad_signature": 401, "stale_signature": 401,
    "not_allowed": 403, "replayed_id": 409,
}  # fmt: skip
"""Of a rejected event, by its code; the others are 422: understood, and wrong."""


def status_of(error: KeyrepackError) -> int:
    """Return the HTTP status; 422 for what was understood and refused."""
    if error.code == UNEXPECTED:
        return 500
    if isinstance(error, EventRejected):
        return EVENT_STATUSES.get(error.code, 422)
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 422)


def as_json(error: KeyrepackError) -> dict[str, object]:
    """Return the same document that a command prints with --json."""
    return {"error": {"code": error.code, "what": error.what, "why": error.why, "remedy": error.remedy}}
