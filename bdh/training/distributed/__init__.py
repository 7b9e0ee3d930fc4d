"""One training on several processes, each with a slice of the same batch."""
