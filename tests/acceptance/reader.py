"""A service that reads: unwraps keys all the while, and writes down when it could and when it could not.

    python -m tests.acceptance.reader KEYS_FILE RESULTS_FILE

KEYS_FILE is JSON, {key id: SHA-256 of its material}. RESULTS_FILE gets a line a change: "<time> <outcome>", where the
outcome is `ok` or the code of the refusal, and a line a second while nothing changes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from pathlib import Path
from uuid import UUID

from schemas.errors import KeyrepackError
from workers.compose import broker_notifier, build_services
from workers.keyring.keyring import Keyring
from workers.runtime.settings import Settings

PAUSE = 0.005
"""Between two reads: a reader that spins would starve the workers on a small machine."""


def main(keys_file: str, results_file: str) -> None:
    """Read until told to stop by SIGTERM."""
    settings = Settings()
    services = build_services(settings, notifier=broker_notifier(settings))
    keyring = Keyring(services)
    keys = {UUID(key): digest for key, digest in json.loads(Path(keys_file).read_text()).items()}
    with Path(results_file).open("w", buffering=1) as results:
        former, told = "", 0.0
        for key in itertools.cycle(keys):
            outcome = _read(keyring, key, keys[key])
            now = time.time()
            if outcome != former or now - told > 1:
                results.write(f"{now:.6f} {outcome}\n")
                former, told = outcome, now
            time.sleep(PAUSE)


def _read(keyring: Keyring, key: UUID, digest: str) -> str:
    try:
        material = keyring.unwrap(key)
    except KeyrepackError as error:
        return error.code
    return "ok" if hashlib.sha256(material).hexdigest() == digest else "wrong"


if __name__ == "__main__":
    main(*sys.argv[1:])
