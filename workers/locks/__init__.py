"""Locks and unlocks environments, and the guards that refuse what a lock forbids."""
