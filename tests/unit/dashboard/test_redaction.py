"""What looks like a secret in a text that a stranger wrote is hidden (R10)."""

from __future__ import annotations

import pytest

from workers.dashboard.redaction import HIDDEN, redact


@pytest.mark.parametrize(
    ("text", "is_hidden"),
    [
        ('{"api_token": "abc"}', True),
        ('{"client_secret":"a\\"b", "x": 1}', True),
        ('{"passwordHash": 12345}', True),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", True),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", True),
        ("Authorization: Bearer abcdefghijkl", True),
        ("hvs.CAESIJabcdefgh", True),
        ('{"main_key": "aws-kms:arn:aws:kms:eu-west-1:1:key/x", "reason": "monkey"}', False),
        ('{"environment": "0d6b1a3e-0000-0000-0000-000000000000"}', False),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, is_hidden: bool) -> None:
    """R10: by its name or by its shape; ids and main keys stay."""
    shown = redact(text)
    assert (HIDDEN in shown) is is_hidden
    assert is_hidden or shown == text
