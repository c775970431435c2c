"""How much is killed, and what every run of kills shares."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

KILLS = int(os.environ.get("ENGINE_KILLS", "108"))
"""Kills of helpers, holders and servers in all; a whole engine suffers a tenth of them in addition."""
SEED = int(os.environ.get("ENGINE_KILLS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
"""Where all chance comes from; another one in each run, and said with each failure."""
RATES = (0.0, 0.1, 0.3, 0.6, 1.0)
"""Parts of the requests that fail."""


def keep(files: Iterable[Path], directory: Path) -> None:
    """Keep logs and journals for whoever looks into a failure: they are removed with the host that they are of."""
    for file in files:
        if file.is_file():
            shutil.copy(file, directory / "-".join(file.parts[-3:]))
