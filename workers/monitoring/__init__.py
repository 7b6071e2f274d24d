"""Read models for people and machines that watch. Reads only."""
