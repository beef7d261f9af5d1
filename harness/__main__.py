"""``python -m harness``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # ``python -m`` puts the working folder first on the path. Unless the harness itself is there, a user's file of that
    # folder, such as random.py, would be imported in place of a library.
    if not sys.flags.safe_path and sys.path and Path(sys.path[0]) != Path(__file__).parent.parent:
        del sys.path[0]

    from harness.cli import main

    main()
