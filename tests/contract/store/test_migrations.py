"""The schema's history leads to exactly the tables the program knows."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from workers.errors import SchemaTooOld
from workers.store import schema
from workers.store.database import Database
from workers.store.models import metadata
from workers.store.revisions import current_revision, known_revisions, latest_revision, require_current
from workers.store.schema import migrate


def test_migrations_lead_to_the_models(empty_url: str) -> None:
    """From nothing to the newest revision is the same as what the models say; a second time is a no-op."""
    database = Database(empty_url)
    assert current_revision(database) is None
    with pytest.raises(SchemaTooOld, match="keyrepack migrate"):
        require_current(database)
    assert migrate(database) == (None, latest_revision())
    require_current(database)
    assert migrate(database) == (latest_revision(), latest_revision())
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, metadata)
    database.close()
    assert differences == []


def test_revisions_are_known_without_alembic() -> None:
    """By the names of their files, in the order in which Alembic applies them: no worker has to load it."""
    scripts = ScriptDirectory.from_config(schema._config()).walk_revisions()
    assert known_revisions() == [script.revision for script in scripts][::-1]
    loaded = "import sys, workers.celery_app.tasks, workers.store.revisions; print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True).stdout == b"False\n"
