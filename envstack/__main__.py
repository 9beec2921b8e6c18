"""`python -m envstack`: the command line, and how the client starts the daemon."""

from envstack.cli import main

main()
