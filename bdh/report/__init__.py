"""The comparison page, its tables and plots. Nothing here imports torch."""
