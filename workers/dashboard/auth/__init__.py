"""Who may use the dashboard: users, passwords, sessions, the provider."""
