"""Questions that read and never write."""
