"""Housekeeping: the sweeper, the outbox relay, the workers' heartbeats."""
