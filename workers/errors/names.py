"""Things that are not there, are there already, or are not configured."""

from __future__ import annotations

from workers.errors.kinds import Permanent


class NotFound(Permanent):
    """No such thing."""

    code = "not_found"

    def __init__(self, kind: str, name: object, remedy: str = "") -> None:
        super().__init__(f"There is no {kind} {name}.", "", remedy or "Check the id.")
        self.kind, self.name = kind, str(name)


class AlreadyThere(Permanent):
    """There is one of that name already; nothing was changed."""

    code = "already_there"

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"There is already an {kind} {name}.", "", "Take another name.")
        self.kind, self.name = kind, str(name)


class JournalBroken(Permanent):
    """A file that should tell what happened cannot be read; nothing was changed."""

    code = "witness_broken"

    def __init__(self, *, file: str, line: int, why: str) -> None:
        super().__init__(
            f"{file} is no witness.",
            f"Line {line}: {why}.",
            "Give what `keyrepack audit export` says, or a certificate.",
        )
        self.file, self.line = file, line


class NotConfigured(Permanent):
    """A setting is missing without which this part stays closed."""

    code = "not_configured"
