"""Sessions of the AWS SDK that share one data loader: the model of each API is read and parsed once a process.

botocore gives each session a loader of its own, and parsing the models takes most of the time of a client's opening
and most of its memory. A process opens a client for each role and region of its customers.
"""

from __future__ import annotations

import functools
from typing import Any

from aiobotocore.session import AioSession, get_session


def new_session() -> AioSession:
    """Open a session that reads the models of APIs through the loader of this process."""
    session = get_session()
    session.register_component("data_loader", _data_loader())
    return session


@functools.cache
def _data_loader() -> Any:
    return get_session().get_component("data_loader")
