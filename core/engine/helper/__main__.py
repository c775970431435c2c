"""Entry of helper processes: `serve LOCK LISTENER CONFIG` and `check CONFIG`, numbers of inherited descriptors."""

import os
import sys


def main() -> None:
    """Do what the arguments say."""
    from engine.helper import process

    what, *descriptors = sys.argv[1:]
    numbers = [int(descriptor) for descriptor in descriptors]
    if what == "check":
        code = process.check(numbers[0], print)
    else:
        from engine.tree.tree import Tree

        code = process.serve(numbers[0], numbers[1], numbers[2], Tree)
    sys.stdout.flush()
    os._exit(code)  # what threads still do may be cut off at any time, and is


if __name__ == "__main__":
    main()
