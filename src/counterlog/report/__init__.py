"""The HTML page of any result."""
