"""The record: every table, and the only statements that touch them. SQLAlchemy ends here."""
