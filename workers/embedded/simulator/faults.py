"""Injected faults: for one key, operation or region or all, so many times or until it is cleared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from workers.embedded.simulator.refusals import Refusal


class FaultKind(StrEnum):
    """What happens to a call."""

    ERROR = "error"  # answered with an error: `code`
    THROTTLE = "throttle"  # answered with ThrottlingException
    DELAY = "delay"  # answered rightly, `seconds` late
    DROP = "drop"  # the connection is closed without an answer
    HANG = "hang"  # never answered


@dataclass(slots=True, kw_only=True)
class InjectedFault:
    """One fault. `key` is an ARN (for AssumeRole a role's) and None means every key; `remaining` None: until cleared.

    With a `region` alone a whole region is down, its STS too.
    """

    number: int
    kind: FaultKind
    key: str | None = None
    operation: str | None = None
    region: str | None = None
    code: str = "KMSInternalException"
    message: str = "Injected by the simulator."
    seconds: float = 0.0
    remaining: int | None = None

    def matches(self, operation: str, keys: Collection[str], region: str) -> bool:
        """Return True if it applies to a call of `operation` to `region` that names `keys`."""
        is_here = self.operation in {None, operation} and self.region in {None, region}
        return is_here and (self.key is None or self.key in keys)

    def refusal(self) -> Refusal:
        """Return the error of an ERROR or THROTTLE."""
        if self.kind is FaultKind.THROTTLE:
            return Refusal("ThrottlingException", "Rate exceeded")
        return Refusal(self.code, self.message)

    def as_json(self) -> dict[str, Any]:
        """Return its fields."""
        return asdict(self)


class InjectedFaults:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: dict[int, InjectedFault] = {}
        self._count = 0

    def add(self, *, kind: str, count: int | None = None, **fields: Any) -> InjectedFault:
        """Put one in force. Raises ValueError or TypeError for what is no fault."""
        if count is not None and count < 1:
            raise ValueError("A fault happens at least once.")
        self._count += 1
        fault = InjectedFault(number=self._count, kind=FaultKind(kind), remaining=count, **fields)
        self._faults[fault.number] = fault
        return fault

    def take(self, operation: str, keys: Collection[str], region: str) -> InjectedFault | None:
        """Take the oldest fault that applies to this call, used up by one."""
        for fault in self._faults.values():
            if fault.matches(operation, keys, region):
                self._use_up(fault)
                return fault
        return None

    def clear(self, *, number: int | None = None, key: str | None = None) -> int:
        """End one fault, a key's faults, or all; returns how many."""
        ended = [
            fault.number
            for fault in self._faults.values()
            if number in {None, fault.number} and key in {None, fault.key}
        ]
        for each in ended:
            del self._faults[each]
        return len(ended)

    def as_json(self) -> list[dict[str, Any]]:
        """List every fault in force."""
        return [fault.as_json() for fault in self._faults.values()]

    def _use_up(self, fault: InjectedFault) -> None:
        if fault.remaining is not None:
            fault.remaining -= 1
            if not fault.remaining:
                del self._faults[fault.number]
