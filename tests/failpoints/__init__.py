"""Every failpoint with every action, in real processes that are really killed, on both databases."""
