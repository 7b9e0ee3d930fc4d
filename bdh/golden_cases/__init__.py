"""Which golden vectors check which variant: one module per family."""
