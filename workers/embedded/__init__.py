"""Embedded parts that a laptop lacks: never for production."""
