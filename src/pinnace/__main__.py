"""`python -m pinnace` is `pinnace`."""

from pinnace.cli.main import entry

if __name__ == "__main__":
    entry()
