"""The simulated KMS and STS: which operation answers a call, and which fault comes first."""

from __future__ import annotations

from typing import Any

from workers.embedded.simulator.calls import Calls
from workers.embedded.simulator.clock import Clock
from workers.embedded.simulator.cryptography_operations import CryptographicOperations
from workers.embedded.simulator.faults import InjectedFault, InjectedFaults
from workers.embedded.simulator.keys import Keys
from workers.embedded.simulator.lifecycle_operations import LifecycleOperations
from workers.embedded.simulator.material import Blob
from workers.embedded.simulator.moto_operations import MotoOperations
from workers.embedded.simulator.refusals import Refusal
from workers.embedded.simulator.request import KmsCall
from workers.embedded.simulator.roles import Roles, StsCall

_KEY_PARAMETERS = ("KeyId", "SourceKeyId", "DestinationKeyId", "TargetKeyId")


class Simulator:
    """One simulated KMS and STS of every account and region. Not thread-safe: one event loop has it to itself."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.faults = InjectedFaults()
        self.calls = Calls()
        self._start_empty()

    def reset(self) -> None:
        """Forget every key, role, fault and count. The clock stays where it is."""
        self.faults.clear()
        self.calls.clear()
        self._start_empty()

    def receive(self, call: KmsCall) -> InjectedFault | None:
        """Count a call, and return the fault that applies to it."""
        keys = self._keys_named(call)
        self.calls.count(call.operation, keys)
        return self.faults.take(call.operation, keys, call.region)

    def receive_sts(self, call: StsCall) -> InjectedFault | None:
        """Count a call to STS, by its role, and return the fault that applies to it."""
        self.calls.count(call.action, [call.role_arn])
        return self.faults.take(call.action, [call.role_arn], call.region)

    def answer(self, call: KmsCall) -> dict[str, Any] | None:
        """Return what AWS would answer; None is an empty answer. Raises Refusal."""
        if call.operation in self._cryptographic.table:
            return self._cryptographic.answer(call)
        if call.operation == "CreateKey":
            return self._lifecycle.create(call)
        if call.operation in self._lifecycle.table:
            return self._lifecycle.answer(call)
        return self._moto.answer(call)

    def _start_empty(self) -> None:
        self.keys = Keys(self.clock)
        self.roles = Roles(self.clock)
        self._cryptographic = CryptographicOperations(self.keys)
        self._lifecycle = LifecycleOperations(self.keys, self.clock)
        self._moto = MotoOperations(self.keys)

    def _keys_named(self, call: KmsCall) -> list[str]:
        """ARNs of the keys that a call is about, by its parameters or, without any, by its blob."""
        named = [str(call.parameters[name]) for name in _KEY_PARAMETERS if call.parameters.get(name)]
        arns: list[str] = []
        try:
            if call.operation == "Decrypt" and not named:
                named = [Blob.parse(call.blob("CiphertextBlob", 6144)).arn]
        except Refusal:
            return arns
        for each in named:
            try:
                arns.append(self.keys.find(each, call.account, call.region).arn)
            except Refusal:
                arns.append(each)
        return list(dict.fromkeys(arns))
