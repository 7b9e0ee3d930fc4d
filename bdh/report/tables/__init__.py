"""Tables of the page, one module per subject: plain data that page.html marks up."""
