"""I may also interact: how do I use the log and the new data?  `improve()` gives a policy."""
