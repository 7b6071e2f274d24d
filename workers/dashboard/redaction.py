"""Removes what looks like a secret from a text that a stranger wrote, before it is shown (R10)."""

from __future__ import annotations

import re

HIDDEN = "[hidden]"

_NAMED = re.compile(
    r'("[^"\\]*(?:secret|passw|token|private|plaintext|material|credential|api_?key|authorization)[^"\\]*"\s*:\s*)'
    r'("(?:[^"\\]|\\.)*"?|[^\s,}\]]+)',
    re.IGNORECASE,
)
_SHAPED = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|\b(?:whsk_|kpt_)[A-Za-z0-9+/=_-]{8,}"
    r"|\bhvs\.[A-Za-z0-9_-]{8,}|\bs\.[A-Za-z0-9]{24}\b"  # tokens of OpenBao and Vault
    r"|\b(?:Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}"
    r"|\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
    re.DOTALL,
)


def redact(text: str) -> str:
    """Remove from a text the members of JSON that are named like secrets, and what is shaped like one."""
    return _SHAPED.sub(HIDDEN, _NAMED.sub(rf'\1"{HIDDEN}"', text))
