"""One module per family of golden vectors; `bdh.golden.vectors` says what such a module defines."""
