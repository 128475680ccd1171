"""The command line, as `python -m xlmech`."""

from xlmech.cli.app import main

main()
