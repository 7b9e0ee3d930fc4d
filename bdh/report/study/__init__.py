"""A study: a plan, its own params file and small results in one folder; it renders where no weights are."""
