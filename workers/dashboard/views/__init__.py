"""What pages show, and how it is drawn."""
