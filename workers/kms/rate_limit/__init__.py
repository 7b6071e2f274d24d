"""How many calls a KMS is asked, and how many of them at once."""
