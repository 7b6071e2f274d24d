"""Main keys in the transit engine of OpenBao or Vault."""
