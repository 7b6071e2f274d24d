"""The table of key states: which state refuses which operation, and with what (AWS KMS Developer Guide, "Key states").

moto lets every operation through in every state; this table is what it lacks.
"""

from __future__ import annotations

from workers.embedded.simulator.refusals import Refusal

CRYPTOGRAPHIC = frozenset(
    {
        "Encrypt",
        "Decrypt",
        "ReEncrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "Sign",
        "Verify",
        "GenerateMac",
        "VerifyMac",
    }
)
_ENABLED = frozenset({"Enabled"})
_SETTLED = frozenset({"Enabled", "Disabled"})
_ALLOWED: dict[str, frozenset[str]] = {
    **dict.fromkeys(CRYPTOGRAPHIC, _ENABLED),
    "CreateGrant": _ENABLED,
    "EnableKeyRotation": _ENABLED,
    "DisableKeyRotation": _ENABLED,
    "RotateKeyOnDemand": _ENABLED,
    "ReplicateKey": _ENABLED,
    "EnableKey": _SETTLED,
    "DisableKey": _SETTLED,
    "ScheduleKeyDeletion": frozenset({"Enabled", "Disabled", "PendingImport", "Unavailable"}),
    "CancelKeyDeletion": frozenset({"PendingDeletion"}),
    "CreateAlias": frozenset({"Enabled", "Disabled", "PendingImport", "Unavailable"}),
    "UpdateAlias": frozenset({"Enabled", "Disabled", "PendingImport", "Unavailable"}),
    "UpdateKeyDescription": frozenset({"Enabled", "Disabled", "PendingImport", "Unavailable"}),
}

STATES = (
    "Creating",
    "Enabled",
    "Disabled",
    "PendingDeletion",
    "PendingImport",
    "PendingReplicaDeletion",
    "Unavailable",
    "Updating",
)
"""Every value of KeyState in botocore's model."""


def require_state(operation: str, state: str, arn: str) -> None:
    """Raise Refusal where a key in `state` refuses `operation`; what the table does not name is open in every state."""
    allowed = _ALLOWED.get(operation)
    if allowed is None or state in allowed:
        return
    if state == "Disabled":
        raise Refusal("DisabledException", f"{arn} is disabled.")
    words = {"PendingDeletion": "pending deletion", "PendingImport": "pending import"}
    raise Refusal("KMSInvalidStateException", f"{arn} is {words.get(state, state)}.")
