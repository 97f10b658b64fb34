"""``python -m distmeta`` is the command ``distmeta``."""

from distmeta.cli.main import main

if __name__ == "__main__":
    main()
