"""What it takes to say that something happened to a main key."""
