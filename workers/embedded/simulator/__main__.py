"""`python -m workers.embedded.simulator --port 0 --port-file FILE`: the simulator in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from schemas.errors import KeyrepackError
from workers.embedded.simulator.server import DEFAULT_PORT, LOOPBACK, serve


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted. Prints `{"port": N}` when ready, and writes it to --port-file."""
    parser = argparse.ArgumentParser(prog="kms-simulator", description=__doc__)
    parser.add_argument("--host", default=LOOPBACK, help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    parser.add_argument("--port-file", type=Path, help='file to write {"port": N} to once ready')
    wanted = parser.parse_args(arguments)

    def ready(port: int) -> None:
        line = json.dumps({"port": port})
        if wanted.port_file is not None:
            _write_whole(wanted.port_file, line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        serve(wanted.host, wanted.port, ready=ready)
    except KeyrepackError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole: its reader may be looking for it already."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
