"""Main keys, wherever they live: one port, an adapter a kind of KMS, chosen by the key's URI."""
