"""moto's own operations in the simulator's accounts: aliases, tags, policies, grants, signatures."""

from __future__ import annotations

import json
from typing import Any

from moto.core.request import Request
from moto.kms.responses import KmsResponse

from workers.embedded.simulator.keys import Keys, SimulatorBackend
from workers.embedded.simulator.policy import require_permission
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.request import KmsCall
from workers.embedded.simulator.states import require_state

_UNSUPPORTED = frozenset({"UpdatePrimaryRegion"})
"""moto would change backends that all simulators of a process share."""

_DEFAULTS = {name: {"PolicyName": "default"} for name in ("GetKeyPolicy", "PutKeyPolicy")}
"""Optional in AWS, required by moto."""


class MotoOperations:
    """Hands a call to moto and its answer back, in the shape of botocore's model."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def answer(self, call: KmsCall) -> dict[str, Any] | None:
        """Do it, in the account of the key it names, else in the caller's."""
        named = call.parameters.get("KeyId") or call.parameters.get("TargetKeyId")
        if not named:
            return self._dispatch(call, call.account)
        key = self._keys.find(str(named), call.account, call.region)
        owner, policy = key.moto.account_id, key.moto.policy
        require_permission(policy=policy, action=call.operation, caller=call.account, owner=owner, arn=key.arn)
        require_state(call.operation, key.state, key.arn)
        return self._dispatch(call, owner)

    def _dispatch(self, call: KmsCall, account: str) -> dict[str, Any] | None:
        backend = self._keys.backend(account, call.region)
        if call.operation in _UNSUPPORTED:
            raise Refusal("UnsupportedOperationException", f"The simulator has no {call.operation}.")
        headers = {"X-Amz-Target": f"TrentService.{call.operation}", "Content-Type": "application/x-amz-json-1.1"}
        url = f"https://kms.{call.region}.amazonaws.com/"
        body = json.dumps({**_DEFAULTS.get(call.operation, {}), **call.parameters}).encode()
        request = Request.from_primitives("POST", url, headers, body)
        try:
            status, _, answered = _response_of(backend).dispatch(request, url, request.headers)
        except NotImplementedError as error:
            raise Refusal("UnsupportedOperationException", f"The simulator has no {call.operation}.") from error
        answer = json.loads(answered or "null")
        if status >= 400:
            raise Refusal(str(answer["__type"]), str(answer.get("message", "")))
        return None if answer is None else _without_nulls(answer)


def _response_of(backend: SimulatorBackend) -> type[KmsResponse]:
    """moto's request handler, on this backend instead of moto's own, which all of a process share."""

    class Response(KmsResponse):
        kms_backend = backend

    return Response


def _without_nulls(answer: Any) -> Any:
    """moto says null where AWS says nothing."""
    if isinstance(answer, dict):
        return {name: _without_nulls(value) for name, value in answer.items() if value is not None}
    if isinstance(answer, list):
        return [_without_nulls(value) for value in answer]
    return answer
