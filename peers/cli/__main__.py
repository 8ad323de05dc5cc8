"""`python -m peers.cli` is the program `crdtlog`."""

from peers.cli import main

if __name__ == "__main__":
    main()
