"""Pages: the documents they show, and how these are drawn."""
