"""`python -m xds_server`: the command line, for where the console script is not on the path."""

from xds_server.cli import main

if __name__ == "__main__":
    main()
