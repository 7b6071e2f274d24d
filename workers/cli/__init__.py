"""The command line: `keyrepack --help`."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run `keyrepack`: the entry point."""
    import sys

    from workers.cli.application import run

    sys.exit(run(sys.argv[1:]))
