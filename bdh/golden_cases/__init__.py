"""Golden vectors: one module per kind of file, each with PREFIX and check(path) -> largest relative error by name."""
