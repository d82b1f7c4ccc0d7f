"""What would have happened under another policy or treatment?  `estimate()` gives an `Estimate`."""
