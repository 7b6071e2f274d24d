"""Main keys in files and in memory, whose cipher is our own software."""
