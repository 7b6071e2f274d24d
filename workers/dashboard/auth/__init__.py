"""Signing in to the dashboard: users, passwords, sessions, the provider."""
