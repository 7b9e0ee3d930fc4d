"""Speed, measured on the same work in one run: medians, number of repeats, the machine."""
