"""A machine whose wall clock is off: Python imports this before anything else where PYTHONPATH leads here.

KEYREPACK_TEST_CLOCK_OFF says by how many seconds. The steady clock and all waiting stay true, as on such a machine.
A library that is preloaded to the same end (libfaketime 0.9.10) breaks sleeps by the steady clock.
"""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

OFF = float(os.environ["KEYREPACK_TEST_CLOCK_OFF"])

_time, _time_ns, _real = time.time, time.time_ns, datetime.datetime


class _OfAnyKind(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _real)


class _Shifted(_real, metaclass=_OfAnyKind):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return cls.fromtimestamp(time.time())


_Shifted.__name__ = _Shifted.__qualname__ = "datetime"
_Shifted.__module__ = "datetime"
time.time = lambda: _time() + OFF
time.time_ns = lambda: _time_ns() + int(OFF * 1e9)
datetime.datetime = _Shifted  # type: ignore[misc]
