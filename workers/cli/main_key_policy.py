"""main-key policy: what to attach in AWS, so that an environment's main keys can be used, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workers.cli.environment import Reference
from workers.cli.output import AsJson, Command, say
from workers.cli.session import opened

if TYPE_CHECKING:
    from schemas.keys import MainKeyUri
    from workers.services import Services
    from workers.store.environments import Environment


def policy(
    environment: Reference,
    main_key: Annotated[
        list[str] | None, typer.Option(help="Also for this main key, which is to be adopted; may be repeated.")
    ] = None,
    principal: Annotated[
        str | None, typer.Option(metavar="ARN", help="keyrepack's own ARN; KEYREPACK_AWS_PRINCIPAL_ARN if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the AWS policies for an environment's main keys: the customer's to attach, and the operator's own.

    Least privilege: each action is held to the environment by its encryption context. Changes nothing, asks nobody.

    Example: keyrepack main-key policy acme/production --main-key aws-kms:arn:aws:kms:… --principal arn:aws:iam::…
    """
    from schemas.keys import MainKeyUri
    from workers.store.environments import find_environment, live_tops

    added = [MainKeyUri.parse(uri) for uri in main_key or []]
    with opened() as services:
        with services.database.read() as connection:
            found = find_environment(connection, environment)
            keys = [MainKeyUri.parse(top.main_key) for top in live_tops(connection, found.id)]
        document = _policies(services, found, keys + added, principal)
    say(document, lambda out: _print_policies(out, document))


def _policies(
    services: Services, environment: Environment, keys: list[MainKeyUri], principal: str | None
) -> dict[str, Any]:
    from workers.errors import NotConfigured
    from workers.kms.aws.access import read_access
    from workers.kms.aws.policies import environment_policies, poller_policy, worker_policy

    settings = services.settings
    principal = principal or settings.aws_principal_arn
    if principal is None:
        remedy = "Give --principal, or set KEYREPACK_AWS_PRINCIPAL_ARN."
        raise NotConfigured("Whom shall the policies allow?", "keyrepack's own ARN is not set.", remedy)
    access = read_access(settings.aws_access_file) if settings.aws_access_file else None
    environment_id = environment.environment_id
    return {
        "environment": str(environment),
        "environment_id": str(environment_id),
        "without_policy": sorted({str(key) for key in keys if key.scheme != "aws-kms"}),
        "customer": environment_policies(environment_id, keys, principal=principal, access=access),
        "operator": {
            "worker": worker_policy([environment_id], keys, access=access),
            "poller": poller_policy(keys, access=access),
        },
    }


def _print_policies(out: Console, document: dict[str, Any]) -> None:
    customer, operator = document["customer"], document["operator"]
    for key in document["without_policy"]:
        out.print(f"{key} is no key of AWS KMS: it has no policy there.")
    if not customer["keys"]:
        out.print("Name the key that is to be adopted: --main-key aws-kms:<key ARN>.")
        return
    for arn, statements in customer["keys"].items():
        _print_policy(out, f"The customer adds to the policy of {arn}", statements)
    for arn, trust in customer["roles_to_assume"].items():
        _print_policy(out, f"The customer adds to the trust policy of {arn}", trust)
    _print_policy(out, "The operator attaches to the role that workers run as", operator["worker"])
    _print_policy(out, "Where the poller has a role of its own, that needs", operator["poller"])


def _print_policy(out: Console, text: str, policy: dict[str, Any]) -> None:
    out.print(f"\n[bold]{text}:[/]")
    out.print(json.dumps(policy, indent=2), markup=False, soft_wrap=True)


COMMANDS: dict[str, Command] = {"policy": policy}
