"""The worker system: walks an environment's key hierarchy and moves it onto a new main key."""
