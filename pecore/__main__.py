"""`python -m pecore`: the `pecore` command where its script is not on the path."""

from pecore.cli import main

if __name__ == "__main__":
    main()
