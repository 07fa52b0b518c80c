"""`python -m tofc`: the command line without the console script."""

from tofc.cli import main

if __name__ == "__main__":
    main()
