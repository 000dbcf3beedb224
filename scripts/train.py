"""`python3 scripts/train.py ...` runs `roadwork train ...`."""

import sys

from roadwork.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
