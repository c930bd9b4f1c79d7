"""One image through a network."""
