"""How far a resolution curve errs by chance: one refinement each of several sets that differ by their random numbers.

    python benchmarks/refine3d_promise.py [--set betagal-800] [--data-seeds 1 2 3 4 5] [--folder FOLDER]

Sets and refinements are those of `refine3d_recovery.py`, one worker of one thread each. For every shell in which the
FSC of the joined map with the truth lies between 0.95 and 0.3 in two sets or more: the promise √(2F / (1 + F)) less
that FSC, its mean over the sets, and its spread from set to set. The mean is the error of the method, the spread that
of a single set, in which a shell has few coefficients that the mask leaves independent.
"""

import argparse
import shlex
import tempfile
from pathlib import Path

import numpy as np
import torch
from refine3d_recovery import SETS, compared, make_set, run_halfmap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(SETS), default="betagal-800")
    parser.add_argument("--data-seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--folder", type=Path, help="where sets and runs are kept; a temporary one where left out")
    options = parser.parse_args()
    recipe, errors = SETS[options.set], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.data_seeds:
            folder = (options.folder or Path(temporary)).resolve() / f"data_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            made = make_set(folder, options.set, recipe, seed)
            found = run_halfmap(folder, options.set, 1, shlex.split("--workers 1 --threads 1"))
            _, _, maps = compared(made, recipe.symmetry, folder / f"halfmap_{options.set}_1")
            errors.append((maps.promised - maps.truth).where(maps.compared, torch.nan).numpy())
            print(f"data seed {seed}: mean {found.promise_mean:.3f}, largest {found.promise_largest:.3f}", flush=True)
    print("\n| shell | promise less truth, mean | spread | sets |\n|---|---|---|---|")
    table = np.array(errors)
    for shell in np.flatnonzero(np.isfinite(table).sum(axis=0) > 1):
        known = table[np.isfinite(table[:, shell]), shell]
        print(f"| {shell} | {known.mean():+.3f} | {known.std(ddof=1):.3f} | {len(known)} |")


if __name__ == "__main__":
    main()
