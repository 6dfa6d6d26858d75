"""``halfmap refine3d``: two independent half-maps of a particle, and what they tell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.geometry.symmetry_names import canonical_name
from halfmap.project.job import JobContext, JobType
from halfmap.refinement.params import OF_ONE_SETTING, RefinementParams

_SWITCHES = {
    "ctf": "rlnDoCorrectCtf",
    "ctf_intact_first_peak": "rlnDoIgnoreCtfUntilFirstPeak",
    "norm_correction": "rlnDoCorrectNorm",
    "scale_correction": "rlnDoCorrectScale",
    "solvent_flattened_fsc": "rlnDoSolventFscCorrection",
}
"""Parameters that are yes or no, and where an optimiser file says so."""

_NUMBERS = {
    "local_from_order": "rlnAutoLocalSearchesHealpixOrder",
    "join_resolution_angstrom": "rlnJoinHalvesUntilThisResolution",
    "max_resolution_angstrom": "rlnHighresLimitExpectation",
    "kept_mass": "rlnAdaptiveOversampleFraction",
    "mask_edge_pixel": "rlnWidthMaskEdge",
}
"""Parameters that are positive numbers, and where an optimiser file says so."""


@dataclass(frozen=True, kw_only=True)
class Refine3DJobParams(RefinementParams):
    """Inputs and settings of ``halfmap refine3d``."""

    particles: Path
    """STAR file of the particles."""

    reference: Path | None = None
    """Map to start from: a map, one of two half-maps, an atomic model (.pdb, .cif), or the folder of another job. Its
    pixel size and box are fitted to the particles. O and I need none: each half then makes a first map of its own, as
    it does where a reference looks alike from all sides."""

    start_from: Path | None = None
    """Instead of a reference an earlier refinement that has not ended, of halfmap or RELION, whose half-maps, halves,
    poses and sampling are the first: its folder, or a file of one of its iterations. Or name it with --continue, which
    takes over its parameters too."""

    reference_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the reference, instead of the one in its header."""

    invert_reference: bool = False
    """The reference's density is dark: change its sign."""

    mask: Path | None = None
    """Soft solvent mask on the particles' grid, or the folder of the job that made it; else a sphere of the mask
    diameter. It is also that of post-processing."""

    mtf: Path | None = None
    """STAR file with the MTF of the detector, for post-processing."""

    local_resolution: bool = True
    """Measure the local resolution at the end, and filter the map by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is not None and self.start_from is not None:
            raise InputError("Either --reference or --start-from must be given; got both; leave one of them out.")
        if self.begins_with_nothing and canonical_name(self.symmetry)[0] not in OF_ONE_SETTING:
            raise InputError(
                "Either --reference or --start-from must be given, but for O and I; got neither; name the map to begin "
                "with as --reference, or make one with `halfmap initial-model`."
            )
        if self.begins_with_nothing and self.sigma_angles_degrees is not None:
            raise InputError(
                "--sigma-angles must come with the map that the angles hold for; got none; name it as --reference."
            )

    @property
    def begins_with_nothing(self) -> bool:
        """Whether there is neither a reference nor an earlier refinement."""
        return self.reference is None and self.start_from is None


def parameters_of_run(project: Path, path: Path) -> dict[str, Any]:
    """Return the parameters of a job that goes on from a refinement of another program, or from some iteration.

    Parameters
    ----------
    project : the project's folder.
    path : of the refinement, as `halfmap.io.relion_refinement.read_refinement_run` takes it.

    Returns
    -------
    What the files of the iteration say; of a job of halfmap all that its ``job.json`` does, which RELION's files have
    no place for.

    Raises
    ------
    FormatError
        It is no 3D refinement.
    """
    from halfmap.io.relion_paths import resolve_paths
    from halfmap.io.relion_refinement import particle_table, read_refinement_run
    from halfmap.project.record import parameters_beside

    earlier = read_refinement_run(path, project=project)
    settings = earlier.settings or {}
    particles = particle_table(path, project=project)
    values: dict[str, Any] = {
        "particles": particles,
        "start_from": path,
        "symmetry": earlier.symmetry,
        "mask_diameter_angstrom": earlier.mask_diameter_angstrom,
        "regularisation": earlier.regularisation,
        "skip_padding": earlier.padding == 1,
        "seed": earlier.seed,
    }
    if 0 <= earlier.perturbation_factor <= 1:
        values["perturbation"] = earlier.perturbation_factor
    values |= {name: settings[label] == "1" for name, label in _SWITCHES.items() if label in settings}
    numbers = {name: float(settings.get(label, "nan")) for name, label in _NUMBERS.items()}
    # what a file does not know, or states as −1, stays at its default
    values |= {name: number for name, number in numbers.items() if number > 0}
    mask = settings.get("rlnSolventMaskName", "None")
    if mask != "None":
        values["mask"] = resolve_paths(particles, project, [mask]) / mask
    return values | parameters_beside(path, JOB)


def _run(context: JobContext, params: Refine3DJobParams) -> Path:
    from halfmap.jobs.refine3d_run import refine

    return refine(context, params)


JOB = JobType(
    command="refine3d",
    folder="Refine3D",
    parameters=Refine3DJobParams,
    run=_run,
    summary="Refine a map from particles in two independent halves, to the sharpened map",
    inputs=("particles", "reference", "start_from", "mask", "mtf"),
    outputs={"particles": "run_data.star", "mask": "mask.mrc"},
    parameters_of_run=parameters_of_run,
)
