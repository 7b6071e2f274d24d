"""The schema's history leads to exactly the tables the program knows."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from workers.errors import SchemaTooOld
from workers.store.database import Database
from workers.store.models import metadata
from workers.store.schema import current_revision, latest_revision, migrate, require_current


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
