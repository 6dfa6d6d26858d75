"""``halfmap pick topaz``: train the real Topaz, or pick with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from halfmap.errors import InputError
from halfmap.project.job import DEFAULT_SEED, JobContext, JobType


@dataclass(frozen=True, kw_only=True)
class PickTopazParams:
    """Inputs and settings of ``halfmap pick topaz``."""

    micrographs: Path
    """STAR file of the micrographs."""

    train: bool = False
    """Train a network, from --picks or --particles."""

    pick: bool = False
    """Pick in all micrographs, with --model or the network that comes with Topaz."""

    diameter_angstrom: Annotated[float, Gt(0)]
    """Diameter of the particles: it sets down-scaling and radii. The same for training and picking."""

    picks: Path | None = None
    """Positions to train with: autopick.star, a job's folder, or a folder of coordinate files."""

    particles: Path | None = None
    """Particles to train with, such as those of selected classes; refined offsets count."""

    expected_per_micrograph: Annotated[int, Ge(1)] | None = None
    """Particles that a micrograph holds on average, labelled or not; training needs it."""

    model: Path | None = None
    """Network to pick with, model_epochN.sav of a training. Default: Topaz's own pretrained one."""

    threshold: float = -6.0
    """Least log-odds of a pick. Low, so that a later `--min-fom` can choose."""

    downscale: Annotated[int, Ge(1)] | None = None
    """Factor by which micrographs are reduced. Default: 2 diameters become 71 pixels, at least 4."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their table."""

    executable: str | None = None
    """Topaz, or a script that takes its arguments. Default: HALFMAP_TOPAZ, RELION_TOPAZ_EXECUTABLE, then topaz."""

    extra_arguments: str = ""
    """Further arguments of `topaz train` or `topaz extract`, as one quoted text."""

    seed: int = DEFAULT_SEED
    """Seed of the order in which micrographs are shared out for training and testing."""

    def __post_init__(self) -> None:
        if self.train == self.pick:
            found = "both" if self.train else "neither"
            raise InputError(f"pick topaz must have one of --train and --pick; got {found}; give one.")
        if self.train and (self.picks is None) == (self.particles is None):
            found = "neither" if self.picks is None else "both"
            raise InputError(f"--train must have one of --picks and --particles; got {found}; give one.")
        if self.train and self.expected_per_micrograph is None:
            raise InputError("--train must know --expected-per-micrograph; got none; count particles in a picture.")
        if self.pick and not (self.picks is None and self.particles is None):
            raise InputError("--pick must have no --picks or --particles; got some; they belong to --train.")
        if self.train and self.model is not None:
            raise InputError("--train must have no --model; got one; it belongs to --pick.")


def run(context: JobContext, params: PickTopazParams) -> Path:
    """Train and return the path of the best model, or pick and return that of ``autopick.star``."""
    from halfmap.jobs import topaz_picking, topaz_training

    return topaz_training.train(context, params) if params.train else topaz_picking.pick_all(context, params)


JOB = JobType(
    command="pick topaz",
    folder="AutoPick",
    parameters=PickTopazParams,
    run=run,
    summary="Train the real Topaz, or pick with it",
    inputs=("micrographs", "picks", "particles", "model"),
)
