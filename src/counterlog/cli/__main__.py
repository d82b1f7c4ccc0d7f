"""`python -m counterlog.cli`."""

from counterlog.cli import main

main()
