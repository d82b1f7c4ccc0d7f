"""What systems share, one idea a module."""
