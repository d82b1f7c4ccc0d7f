"""What can this log support, and what may I still ask of it?  `check()` gives findings."""
