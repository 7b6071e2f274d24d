"""Events from other services: who may say what, how they are received, what they do."""
