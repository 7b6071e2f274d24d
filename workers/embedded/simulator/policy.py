"""Evaluates key policies: who may do what with a key, and AWS's rule on other accounts.

The simulator knows a caller by account alone, so a statement applies to a whole account. A condition it does not know
never allows and always denies: closed where it does not understand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from workers.embedded.simulator.refusals import Refusal

CROSS_ACCOUNT = frozenset(
    {
        "DescribeKey",
        "GetKeyRotationStatus",
        "Encrypt",
        "Decrypt",
        "ReEncrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GetPublicKey",
        "Sign",
        "Verify",
        "GenerateMac",
        "VerifyMac",
        "CreateGrant",
        "ListGrants",
        "RetireGrant",
        "RevokeGrant",
    }
)
"""What another account may be allowed at all. ListKeyRotations, GetKeyPolicy, RotateKeyOnDemand are not among them."""


def owner_policy(partition: str, accounts: list[str]) -> str:
    """Build a policy under which `accounts` may do everything: AWS's default with other accounts added."""
    roots = [f"arn:{partition}:iam::{account}:root" for account in accounts]
    statement = {"Effect": "Allow", "Principal": {"AWS": roots}, "Action": "kms:*", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def require_permission(
    *, policy: str, action: str, caller: str, owner: str, arn: str, context: Mapping[str, str] | None = None
) -> None:
    """Raise Refusal AccessDeniedException unless the key's policy lets account `caller` do `action` ("ReEncryptTo")."""
    operation = "ReEncrypt" if action.startswith("ReEncrypt") else action
    open_to_caller = caller == owner or operation in CROSS_ACCOUNT
    effects = {
        statement.get("Effect")
        for statement in _statements(policy)
        if _names(statement, action, caller) and _holds(statement, caller, context or {})
    }
    if not open_to_caller or "Allow" not in effects or "Deny" in effects:
        raise Refusal(
            "AccessDeniedException",
            f"User: arn:aws:iam::{caller}:root is not authorized to perform: kms:{action} on resource: {arn} because "
            "the resource does not exist in this Region, no resource-based policies allow access, or a resource-based "
            "policy explicitly denies access",
        )


@lru_cache(maxsize=4096)  # the same few policies are evaluated on every call
def _statements(policy: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(policy).get("Statement", [])
    except (ValueError, AttributeError):
        return []
    return [item for item in _listed(found) if isinstance(item, dict)]


def _names(statement: dict[str, Any], action: str, caller: str) -> bool:
    actions = [str(pattern) for pattern in _listed(statement.get("Action", []))]
    principal = statement.get("Principal", {})
    named = _listed(principal.get("AWS", []) if isinstance(principal, dict) else principal)
    return any(fnmatchcase(f"kms:{action}", pattern) for pattern in actions) and any(
        who in {"*", caller} or str(who).split(":")[4:5] == [caller] for who in named
    )


def _holds(statement: dict[str, Any], caller: str, context: Mapping[str, str]) -> bool:
    """Return True if the statement's conditions hold; an unknown one holds for Deny alone."""
    known = {"kms:CallerAccount": caller, **{f"kms:EncryptionContext:{key}": value for key, value in context.items()}}
    for operator, wanted in statement.get("Condition", {}).items():
        if operator != "StringEquals":
            return statement.get("Effect") == "Deny"
        if any(known.get(key) not in _listed(values) for key, values in wanted.items()):
            return False
    return True


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
