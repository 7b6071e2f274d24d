"""Values and bytes: the words of the domain, with no I/O and no framework."""
