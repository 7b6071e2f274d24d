"""Wraps: seal, open and rewrap them; the plaintext cache and the lock epochs that empty it."""
