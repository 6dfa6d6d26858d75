"""``halfmap population update-mask``: another mask for a species, and its maps measured again."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from halfmap.errors import InputError
from halfmap.jobs.population_params import MeasuredSpeciesParams
from halfmap.project.job import JobContext, JobType

if TYPE_CHECKING:
    from halfmap.data.volumes import Volume
    from halfmap.jobs.population_members import OpenSpecies


@dataclass(frozen=True, kw_only=True)
class UpdateMaskParams(MeasuredSpeciesParams):
    """Inputs and settings of ``halfmap population update-mask``."""

    mask: Path | None = None
    """The mask, on the grid of the species; what reaches 0.25 counts."""

    from_: Literal["halves", "filt", "filtsharp", "filtlocal", "denoised"] | None = None
    """Make the mask from the mean of the half-maps, or from one of the species' maps."""

    threshold: float | None = None
    """Grey value of the low-passed map from which a voxel is in the mask. Default: found from the map."""

    low_pass_angstrom: Annotated[float, Gt(0)] = 15.0
    """Low-pass the map at this resolution first."""

    def __post_init__(self) -> None:
        if self.mask is not None and self.from_ is not None:
            raise InputError("--mask must go without --from; got both; leave one out.")
        if self.mask is not None and self.threshold is not None:
            raise InputError("--threshold must go with --from; got it with --mask; leave one out.")


def _run(context: JobContext, params: UpdateMaskParams) -> Path:
    from halfmap.jobs.population_files import changing
    from halfmap.jobs.population_report import given_section, species_facts, species_sections
    from halfmap.jobs.population_species_files import (
        commit_species,
        is_in_use,
        measured_maps,
        read_halves,
        stage_maps,
    )
    from halfmap.report.blocks import Facts, Report

    with changing(params.population, context.progress.message) as opened:
        species = opened.find_species(params.species)
        before = species.species.resolution_angstrom
        halves = read_halves(species)
        mask, note = _mask(species, halves, params)
        context.progress.message(note)
        given = given_section(*halves, mask, note=note)
        if is_in_use(species, halves, mask):
            said = f"The mask of {params.species} is the one it had: nothing has changed, so nothing is measured."
            context.progress.message(said)
            context.report(Report(title=f"Mask of {params.species}", summary=f"{note} {said}", sections=[given]))
            return species.path
        known, maps = measured_maps(species.species, *halves, mask, context=context, seed=params.seed)
        with species.versions.staging() as staged:
            stage_maps(staged, species.path.stem, maps)
            made = commit_species(species, staged, known)
        n_particles = len(species.particles())
    assert made is not None  # its version is another
    context.progress.message(
        f"{params.species} has a new mask, version {made.version}: {maps.resolution_angstrom:.2f} Å"
        f"{'' if before is None else f', {before:.2f} Å before'}."
    )
    context.report(
        Report(
            title=f"Mask of {params.species}",
            summary=note,
            facts=Facts(facts=species_facts(known, maps, n_particles)),
            sections=[given, *species_sections(maps)],
        )
    )
    return species.path


def _mask(species: "OpenSpecies", halves: tuple["Volume", "Volume"], params: UpdateMaskParams) -> tuple["Volume", str]:
    """Return the mask asked for, and where it comes from."""
    from halfmap.jobs.half_map_inputs import read_mask
    from halfmap.jobs.map_inputs import read_map
    from halfmap.jobs.population_species_files import MASK, read_species_mask
    from halfmap.multiparticle.species import binary_mask, mask_of_map
    from halfmap.postprocessing.half_map_fsc import check_same_grid
    from halfmap.postprocessing.postprocess import mean_map

    if params.mask is not None:
        mask = read_mask(params.mask, halves[0], species.file("half1.mrc"), None)
        return binary_mask(mask, halves[0].grid), f"The mask is {params.mask}, where it reaches 0.25."
    if params.from_ is None:
        if species.file(MASK).name not in species.versions.changed_files():
            raise InputError(
                f"A new mask of {params.species} must be given; got none, and {species.file(MASK)} is as its version "
                "has it; give --mask or --from, or put another in its place."
            )
        return read_species_mask(species), f"The mask is {species.file(MASK)}, put there by hand."
    if params.from_ == "halves":
        volume = mean_map(*halves)
    else:
        path = species.file(f"{params.from_}.mrc")
        if not path.is_file():
            raise InputError(f"{params.species} must have the map {path.name}; got none; choose another --from.")
        volume = read_map(path, None)
        check_same_grid(volume, halves[0], str(path), str(species.file("half1.mrc")))
    mask, threshold = mask_of_map(volume, low_pass_angstrom=params.low_pass_angstrom, threshold=params.threshold)
    return mask, (
        f"The mask was made from {params.from_}, low-passed at {params.low_pass_angstrom:g} Å, at {threshold:.4g}."
    )


JOB = JobType(
    command="population update-mask",
    folder="Population",
    parameters=UpdateMaskParams,
    run=_run,
    summary="Give a species another mask, and measure its maps again",
    inputs=("population", "mask"),
    main_files={"population": "*.population"},
)
