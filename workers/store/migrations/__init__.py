"""The schema's history: Alembic revisions, applied by `keyrepack migrate`."""
