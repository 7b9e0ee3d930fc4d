"""`python -m bdh` is the `bdh` command."""

from bdh.cli import main

if __name__ == "__main__":
    main()
