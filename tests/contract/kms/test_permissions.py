"""The adapter's operations with exactly the policy that a customer is asked to attach, and with less."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any
from uuid import UUID

import pytest

from tests.contract.kms.conftest import ENVIRONMENT, AwsRig
from tests.contract.kms.test_refusals import CONTEXT, MATERIAL, OPERATIONS
from workers.errors import Cause, KmsRefused
from workers.kms.aws.permissions import ACTIONS, CALLS, all_actions
from workers.kms.aws.policies import environment_policies, key_statements, missing_statement
from workers.kms.port import encryption_context

PRINCIPAL = "arn:aws:iam::123456789012:root"
OTHER = UUID(int=99)

on_aws = pytest.mark.parametrize("rig", ["aws"], indirect=True)


def actions_of(operation: str) -> set[str]:
    return {action for call in CALLS[operation] for action in ACTIONS[call]}


async def refusal(call: Awaitable[Any]) -> KmsRefused | None:
    try:
        await call
    except KmsRefused as error:
        return error
    return None


def missing(error: KmsRefused) -> dict[str, Any]:
    """The statement that a refusal says is missing."""
    assert error.cause is Cause.DENIED
    assert error.denial is not None
    statement = missing_statement(error.denial, ENVIRONMENT)
    assert statement is not None
    return statement


def without(statements: list[dict[str, Any]], action: str) -> list[dict[str, Any]]:
    return [{**each, "Action": [one for one in each["Action"] if one != action]} for each in statements]


def test_the_table_names_every_operation_of_the_port() -> None:
    """What has no line in the table of calls would be in no policy."""
    assert CALLS.keys() == OPERATIONS.keys()


@on_aws
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_makes_the_calls_of_the_table(rig: AwsRig, operation: str) -> None:
    """Each operation makes the calls that its line names, once each: policies are made of that table."""
    key = rig.new_key()

    async def play() -> dict[str, int]:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        rig.provider.calls.clear()
        await OPERATIONS[operation](key, blob)
        return dict(rig.provider.calls)

    assert rig.run(play) == dict.fromkeys(CALLS[operation], 1)


@on_aws
def test_the_policy_suffices(rig: AwsRig) -> None:
    """With the environment's policy and nothing else on the key, all that the port offers works."""
    key = rig.new_key()
    told = environment_policies(ENVIRONMENT, [key.uri], principal=PRINCIPAL)
    rig.simulator.set_policy(key.uri.name, told["keys"][key.uri.name])

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        for operation in OPERATIONS.values():
            await operation(key, blob)

    rig.run(play)


@on_aws
@pytest.mark.parametrize("action", all_actions())
def test_each_permission_is_needed_and_its_lack_is_named(rig: AwsRig, action: str) -> None:
    """Without one action exactly the operations that take it are refused, and the statement named mends the policy."""
    key = rig.new_key()
    less = without(key_statements([ENVIRONMENT], principal=PRINCIPAL), action)

    async def play() -> set[str]:
        blob = (await key.wrap(MATERIAL, CONTEXT)).blob
        refused = set()
        for name, operation in OPERATIONS.items():
            rig.simulator.set_policy(key.uri.name, {"Statement": less})
            error = await refusal(operation(key, blob))
            if error is not None:
                statement = missing(error)
                assert statement["Action"] == [action]
                rig.simulator.set_policy(key.uri.name, {"Statement": [*less, statement]})
                await operation(key, blob)
                refused.add(name)
        return refused

    assert rig.run(play) == {name for name in OPERATIONS if action in actions_of(name)}


@on_aws
@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {"describe"}))
def test_the_policy_lets_in_no_other_environment(rig: AwsRig, operation: str) -> None:
    """A key that is shared with one environment wraps and opens nothing of another."""
    key = rig.new_key()

    async def play() -> None:
        blob = (await key.wrap(MATERIAL, encryption_context(ENVIRONMENT, UUID(int=2)))).blob
        rig.simulator.set_policy(key.uri.name, {"Statement": key_statements([OTHER], principal=PRINCIPAL)})
        with pytest.raises(KmsRefused) as caught:
            await OPERATIONS[operation](key, blob)
        assert caught.value.cause is Cause.DENIED

    rig.run(play)
