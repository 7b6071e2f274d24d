"""What travels through the broker, and how full its queues are."""
