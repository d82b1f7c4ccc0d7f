"""Counterlog: learn, evaluate and decide from logged data."""

__version__ = "0.1.0"
