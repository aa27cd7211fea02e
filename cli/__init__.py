"""The command line of otreg, installed as the package ``otreg_cli``: parse, call otreg, print."""
