"""One module per family of golden vectors; `bdh.golden` says what such a module defines."""
