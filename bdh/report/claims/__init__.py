"""The claims ledger: what the references state, judged by rule from the numbers."""
