"""AWS policies: what a customer attaches to their key, what keyrepack's own roles need, and which statement is missing.

Pure, and least privilege: `kms/aws_permissions` says what each call takes. All is JSON-able and canonical: the same
question gives the same text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from schemas.keys import AwsKeyArn, MainKeyUri
from workers.errors import Denial, DeniedBy
from workers.kms.aws.access import Access, RoleToAssume
from workers.kms.aws.permissions import BACKUP_CALLS, POLLER_ACTIONS, UNBOUND, actions_of, all_actions
from workers.kms.port import ENVIRONMENT_KEY

VERSION = "2012-10-17"
"""The language of policies, not a date of ours."""

CONDITION = f"kms:EncryptionContext:{ENVIRONMENT_KEY}"
SCHEME = "aws-kms"

Json = dict[str, Any]


def environment_policies(
    environment: UUID, main_keys: Iterable[MainKeyUri], *, principal: str, access: Access | None = None
) -> Json:
    """Return all that an environment's live main keys take: `keys` (ARN → policy to add), `roles` to assume, and
    `principal`.

    `principal` is keyrepack's own ARN. Where an account's access names a role, that one is who uses its keys. Main keys
    of other kinds have no AWS policy, and are left out.
    """
    access = access or {}
    keys: dict[str, Json] = {}
    trusts: dict[str, Json] = {}
    for arn in _arns(main_keys):
        entry = access.get(arn.account)
        role = entry.role if entry else None
        user = role.arn if role else principal
        keys[str(arn)] = _document(key_statements([environment], principal=user))
        backup = _backup(arn, access)
        if backup is not None:
            keys[str(backup)] = _document(backup_statements([environment], principal=user))
        if role is not None:
            trusts[role.arn] = _document([trust_statement(role, principal=principal)])
    return {
        "keys": dict(sorted(keys.items())),
        "principal": principal,
        "roles_to_assume": dict(sorted(trusts.items())),
    }


def key_statements(environments: Collection[UUID], *, principal: str) -> list[Json]:
    """Return the statements that a main key's policy needs for these environments."""
    return _statements(all_actions(), environments, {"Principal": {"AWS": principal}, "Resource": "*"})


def backup_statements(environments: Collection[UUID], *, principal: str) -> list[Json]:
    """Return the statements that a backup key's policy needs: it opens, and wraps nothing."""
    return _statements(actions_of(BACKUP_CALLS), environments, {"Principal": {"AWS": principal}, "Resource": "*"})


def trust_statement(role: RoleToAssume, *, principal: str) -> Json:
    """Return the statement that a role's trust policy needs."""
    statement: Json = {
        "Sid": "KeyrepackAssume",
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": ["sts:AssumeRole"],
    }
    if role.external_id is not None:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": role.external_id}}
    return statement


def worker_policy(
    environments: Collection[UUID], main_keys: Iterable[MainKeyUri], *, access: Access | None = None
) -> Json:
    """Return what the workers' role needs of its own: the keys of accounts without a role, and the roles to assume."""
    access, arns = access or {}, _arns(main_keys)
    own = [arn for arn in arns if _role(arn, access) is None]
    backups = [backup for arn in own if (backup := _backup(arn, access)) is not None]
    statements = []
    if own:
        statements += _statements(all_actions(), environments, {"Resource": sorted(map(str, own))})
    if backups:
        allowed = _statements(actions_of(BACKUP_CALLS), environments, {"Resource": sorted(map(str, backups))})
        statements += [{**each, "Sid": f"{each['Sid']}Backup"} for each in allowed]
    return _document(statements + _assuming(arns, access))


def poller_policy(main_keys: Iterable[MainKeyUri], *, access: Access | None = None) -> Json:
    """Return what the role that polls main keys needs, if it is not the workers': it describes, and opens nothing."""
    access, arns = access or {}, _arns(main_keys)
    own = sorted(str(arn) for arn in arns if _role(arn, access) is None)
    statements = _statements(sorted(POLLER_ACTIONS), [], {"Resource": own}) if own else []
    return _document(statements + _assuming(arns, access))


def dashboard_policy() -> Json:
    """Return what the dashboard's role needs of AWS: nothing."""
    return _document([])


def missing_statement(denial: Denial, environment: UUID, *, principal: str | None = None) -> Json | None:
    """Return the very statement that is missing if AWS denied; None if none is: a statement denies, or no principal is
    named.

    `principal` is keyrepack's own ARN, for denials in which AWS did not name the principal.
    """
    who = denial.principal or principal
    if denial.by is DeniedBy.EXPLICIT_DENY or who is None:
        return None
    if denial.by is DeniedBy.TRUST_POLICY:
        return trust_statement(RoleToAssume(denial.resource, denial.external_id), principal=who)
    bound = denial.action not in UNBOUND and denial.action.startswith("kms:")
    statement: Json = {"Sid": "KeyrepackMissing", "Effect": "Allow"}
    if denial.by is DeniedBy.KEY_POLICY:
        statement["Principal"] = {"AWS": who}
    statement |= {"Action": [denial.action], "Resource": "*" if "Principal" in statement else [denial.resource]}
    return statement | (_condition([environment]) if bound else {})


def _statements(actions: list[str], environments: Collection[UUID], whose: Json) -> list[Json]:
    """Return one statement for what has no encryption context, and one for what is held to these environments."""
    free = [action for action in actions if action in UNBOUND]
    bound = [action for action in actions if action not in UNBOUND]
    made = []
    if free:
        made.append({"Sid": "KeyrepackDescribe", "Effect": "Allow", "Action": free, **whose})
    if bound:
        statement = {"Sid": "KeyrepackUse", "Effect": "Allow", "Action": bound, **whose}
        made.append(statement | _condition(environments))
    return made


def _condition(environments: Collection[UUID]) -> Json:
    return {"Condition": {"StringEquals": {CONDITION: sorted(str(each) for each in environments)}}}


def _assuming(arns: list[AwsKeyArn], access: Access) -> list[Json]:
    roles = sorted({role.arn for arn in arns if (role := _role(arn, access)) is not None})
    if not roles:
        return []
    return [{"Sid": "KeyrepackAssume", "Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": roles}]


def _arns(main_keys: Iterable[MainKeyUri]) -> list[AwsKeyArn]:
    """List the AWS keys among the main keys, each once, in order."""
    return [AwsKeyArn.of(uri) for uri in sorted(set(main_keys)) if uri.scheme == SCHEME]


def _role(arn: AwsKeyArn, access: Access) -> RoleToAssume | None:
    entry = access.get(arn.account)
    return None if entry is None else entry.role


def _backup(arn: AwsKeyArn, access: Access) -> AwsKeyArn | None:
    entry = access.get(arn.account)
    return None if entry is None else arn.in_region(entry.backup_region)


def _document(statements: list[Json]) -> Json:
    return {"Version": VERSION, "Statement": statements}
