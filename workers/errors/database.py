"""Errors of the database: what it did not do, and schemas that do not fit this program."""

from __future__ import annotations

from workers.errors.kinds import Permanent, Transient


class UnknownWord(Transient):
    """A row has a word that this program does not know: a newer one runs beside it, and goes on with that row."""

    code = "unknown_word"

    def __init__(self, *, kind: str, word: str, of: str) -> None:
        super().__init__(
            f"{of} is left to a newer program.",
            f"Its {kind} is {word!r}, which this one does not know.",
            "Nothing to do while a release is rolled out; after that, run the newer one here too.",
        )
        self.kind, self.word = kind, word


class DatabaseFailed(Transient):
    """The database did not do what it was asked for. A caller that must know fails closed."""

    code = "database_failed"


class DatabaseAway(DatabaseFailed):
    """The database did not answer."""

    code = "database_away"

    def __init__(self, detail: str) -> None:
        super().__init__("The database does not answer.", detail, "It is tried again; check that the server is up.")


class DatabaseFull(DatabaseFailed):
    """The database's disk is full. What is stored can be read, and nothing is lost."""

    code = "database_full"

    def __init__(self, detail: str) -> None:
        super().__init__(
            "The database has no room left.",
            detail,
            "Make room on its disk; work goes on by itself then.",
        )


class TransactionConflict(DatabaseFailed):
    """The database gave a transaction up for another one's sake. It may be tried again as a whole."""

    code = "transaction_conflict"

    def __init__(self, detail: str) -> None:
        super().__init__("The database gave the transaction up.", detail, "Nothing to do: it is tried again.")


class SchemaTooOld(Permanent):
    """The database's schema is not there yet, or lacks revisions that this program needs."""

    code = "schema_too_old"

    def __init__(self, *, found: str | None, needed: str) -> None:
        super().__init__(
            "The database is not ready.",
            f"Its schema is {found or 'not there yet'}; this program needs {needed}.",
            "Run `keyrepack migrate`.",
        )
        self.found, self.needed = found, needed


class ProgramTooOld(Permanent):
    """The database's schema was contracted past what this program knows."""

    code = "program_too_old"

    def __init__(self, *, found: str, known: str, oldest: str | None) -> None:
        needs = f"needs a program that knows {oldest}" if oldest else "does not say which programs it still serves"
        super().__init__(
            "This program is too old for its database.",
            f"The schema is {found} and {needs}; this program knows {known}.",
            "Run the release that the database was migrated by, or a newer one.",
        )
        self.found, self.known, self.oldest = found, known, oldest
