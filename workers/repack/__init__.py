"""A repack from start to finish: THE PAGE is lifecycle.py; its stages are move.py, renew.py and shred.py."""
