"""One module per command of `bdh`; heavy libraries are imported inside the functions that need them."""
