"""What policy can I learn from the log alone?  `fit()` gives a policy."""
