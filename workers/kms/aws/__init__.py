"""Main keys in AWS KMS."""
