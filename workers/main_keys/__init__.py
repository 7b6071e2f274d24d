"""Main keys in use: polled, uploaded, listed."""
