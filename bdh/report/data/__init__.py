"""What the report reads, and the numbers it makes of it."""
