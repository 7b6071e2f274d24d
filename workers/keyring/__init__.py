"""The read side: unwrap, create and mint keys."""
