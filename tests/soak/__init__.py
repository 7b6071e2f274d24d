"""The soak: readers, writers and repacks at work while everything that can be killed, lost or refused is, at random."""
