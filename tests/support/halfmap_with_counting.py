"""The `halfmap` command, and one more job: ``python halfmap_with_counting.py count …``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from halfmap.cli.main import main
from halfmap.jobs import registry


def add_counting() -> None:
    """Add the counting job to the table of commands of this process."""
    entry = registry.Entry("count", "support.counting_job:JOB", "Count to a number", "Begin here")
    registry.COMMANDS = (*registry.COMMANDS, entry)


if __name__ == "__main__":
    add_counting()
    main()
