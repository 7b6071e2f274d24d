"""Proof that every key is as it must be, and recovery where it is not."""
