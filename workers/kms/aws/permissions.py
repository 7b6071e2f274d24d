"""The calls of each operation of the AWS adapter, and the permissions that each call takes. Policies come of this.

The adapter makes no call that is not here; the contract suite, run with exactly these permissions, shows that none is
too many.
"""

from __future__ import annotations

from collections.abc import Mapping

CALLS: Mapping[str, tuple[str, ...]] = {
    "describe": ("DescribeKey",),
    "generate": ("GenerateDataKey", "Decrypt"),
    "wrap": ("Encrypt", "Decrypt"),
    "unwrap": ("Decrypt",),
    "rewrap": ("ReEncrypt",),
}
"""The port's operations → AWS's; what opens a new wrap again, to compare it (R6), is among them."""

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "DescribeKey": ("kms:DescribeKey",),
    "GenerateDataKey": ("kms:GenerateDataKey",),
    "Encrypt": ("kms:Encrypt",),
    "Decrypt": ("kms:Decrypt",),
    "ReEncrypt": ("kms:ReEncryptFrom", "kms:ReEncryptTo"),  # of the key it leaves, of the key it goes to
}
"""AWS's operations → IAM actions."""

UNBOUND = frozenset({"kms:DescribeKey", "kms:GetKeyRotationStatus"})
"""Actions without an encryption context: a condition on one would refuse them always."""

BACKUP_CALLS = ("DescribeKey", "Decrypt")
"""What a backup key in another region is asked: to open, and which state refused."""

POLLER_ACTIONS = (*ACTIONS["DescribeKey"], "kms:GetKeyRotationStatus")
"""What polls main keys: reads alone. The second shows an operator whether the KMS rotates the key by itself."""


def actions_of(calls: tuple[str, ...]) -> list[str]:
    """List the permissions that these calls take, in order."""
    return sorted({action for call in calls for action in ACTIONS[call]})


def all_actions() -> list[str]:
    """List the permissions that a main key in use takes, in order."""
    return actions_of(tuple(call for calls in CALLS.values() for call in calls))
