"""What changes when rows must go?  `forget()` gives a model without them, and the report of what it did."""
