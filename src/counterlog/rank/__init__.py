"""What should I show, learnt from clicks and visits?  `fit()` gives a ranker."""
