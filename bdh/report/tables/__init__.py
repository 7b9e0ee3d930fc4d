"""Tables of the page: plain data first, markup last."""
