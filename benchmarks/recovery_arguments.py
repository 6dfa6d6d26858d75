"""What the benchmarks that recover a known truth, run after run, are asked on their command lines."""

import argparse
import shutil
from collections.abc import Collection
from pathlib import Path


def recovery_arguments(
    description: str,
    *,
    sets: Collection[str],
    default_sets: Collection[str],
    default_seeds: Collection[int],
    relion_program: str | None = None,
) -> argparse.Namespace:
    """Read the command line: sets, seeds of our runs, a run made before, a folder; beside RELION, flags for it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sets", nargs="+", choices=list(sets), default=list(default_sets))
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=list(default_seeds), help="of our runs; none: do not run ours"
    )
    parser.add_argument("--only", type=Path, help="print the figures of this folder of a run on the first set, and end")
    parser.add_argument("--folder", type=Path, help="where sets and runs are kept; a temporary one where left out")
    if relion_program is not None:
        parser.add_argument("--relion", action="store_true", help="run RELION too, and keep its figures")
        parser.add_argument("--extra", default="", help="further flags of ours, in one string")
    options = parser.parse_args()
    if relion_program is not None and options.relion and shutil.which(relion_program) is None:
        parser.error("RELION is not installed: apt-get install relion")
    return options
