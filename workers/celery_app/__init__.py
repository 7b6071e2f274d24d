"""Celery ends here: the application, its settings, tasks and the two consumers."""
