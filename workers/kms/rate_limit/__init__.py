"""Limits calls to a KMS: how many per second, and how many at once."""
