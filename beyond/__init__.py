"""What no coursework asks for, each a script of its own: `python -m beyond.NAME --help`."""
