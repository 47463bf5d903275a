"""`python -m halfstride` is the command `halfstride`."""

from halfstride.cli import main

if __name__ == "__main__":
    main()
