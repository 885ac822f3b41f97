"""`python -m lamella`."""

from .cli import main

main()
