"""Which rows or regions made the model do this?  `score()` gives scores."""
