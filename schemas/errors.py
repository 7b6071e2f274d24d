"""Errors of values that are not what they claim to be.

SchemaError
├── MalformedMainKeyUri   a main key's name is not a URI we know
├── MalformedWrap         wrapped bytes are not of the layout
├── MalformedKey          a key that signs events is not written as one
├── IllegalMove           a repack's state does not allow what was asked
└── EventRejected         an event that must not take effect: `code` and `reason` say why
"""

from __future__ import annotations


class KeyrepackError(Exception):
    """Anything keyrepack refuses or fails at: `what`, `why` and `remedy`, a sentence each."""

    code = "failed"
    remedy = ""

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy or type(self).remedy

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.remedy) if part)


class SchemaError(KeyrepackError):
    """A value is not of the form it must have."""


class MalformedMainKeyUri(SchemaError):
    """A main key's URI is not one."""

    code = "malformed_main_key"

    def __init__(self, *, uri: str, expected: str) -> None:
        super().__init__(f"{uri!r} does not name a main key.", f"The form is {expected}.", "Correct the URI.")
        self.uri = uri


class MalformedWrap(SchemaError):
    """Wrapped bytes are not of the layout that their first byte announces."""

    code = "malformed_wrap"

    def __init__(self, why: str) -> None:
        super().__init__("A wrap is not of the layout.", why, "Restore the key's row from a backup.")


class MalformedKey(SchemaError):
    """A key that signs or verifies events is not written as one; the key itself is in no message (R10)."""

    code = "malformed_key"

    def __init__(self, why: str, *, expected: str) -> None:
        super().__init__(f"This is no {expected} key.", why, f"The form is {expected}<base64>; generate a pair anew.")


class IllegalMove(SchemaError):
    """A repack is in a state that does not allow what was asked of it."""

    code = "illegal_move"

    def __init__(self, *, action: str, state: str, allowed: list[str]) -> None:
        may = f"It may be {', '.join(allowed)}." if allowed else "It has ended and stays as it is."
        super().__init__(f"The repack cannot be {action}.", f"It is {state}.", may)
        self.action = action
        self.state = state


class EventRejected(SchemaError):
    """An event that must not take effect; kept with `code` and `why` in the list of rejected events."""

    def __init__(self, code: str, why: str, remedy: str = "") -> None:
        super().__init__("The event was rejected.", why, remedy or "Correct it and publish it under a new id.")
        self.code = code
