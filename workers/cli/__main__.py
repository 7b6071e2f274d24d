"""`python -m workers.cli`."""

from workers.cli.processes import app

app()
