"""`python -m sovctl`: the same as the `sovctl` command."""

from sovctl.cli.main import main

if __name__ == "__main__":
    main()
