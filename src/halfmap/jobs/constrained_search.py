"""``halfmap constrained-search``: a domain looked for where particles that are known say that it must be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, MultipleOf

from halfmap.errors import InputError
from halfmap.project.job import ConfigFile, JobContext, JobType
from halfmap.template_matching.constrained_params import ConstrainedSearchParams


@dataclass(frozen=True, kw_only=True)
class ConstrainedSearchJobParams(ConstrainedSearchParams):
    """Inputs and settings of ``halfmap constrained-search``."""

    config: Path | None = None
    """Configuration of Leopard-EM's constrained search (YAML). Flags go before what it says."""

    particles: Path | None = None
    """Table of the particles that are known: CSV, best of refine-template, or STAR file of a RELION refinement."""

    template: Path | None = None
    """Map of the domain in the frame of the particle's template: where the particle has it, the rest empty."""

    particle_template: Path | None = None
    """Map of the particle without the domain. Its projection is taken off each particle first, as else what it has in
    common with the domain counts for the domain."""

    search: Path | None = None
    """Table of a search of the same micrographs with the domain's template (CSV), whose maps of mean and standard
    deviation the scores are held against. Default: scores are in standard deviations of white noise."""

    box_pixel: Annotated[int, Ge(4), MultipleOf(2)] | None = None
    """Side of the box cut out about each particle. Default: 16 px more than the template."""

    template_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the templates, instead of the one in their headers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (("--particles", self.particles), ("--template", self.template)):
            if value is None:
                raise InputError(f"{flag} must be given, or --config with it; got neither; name the file.")


def _read_config(project: Path, path: Path) -> Mapping[str, Any]:
    """Return the parameters that a configuration of Leopard-EM sets."""
    from halfmap.io import leopard_config
    from halfmap.jobs.leopard_inputs import check_original_size, filter_values, named_file, square_side

    config = leopard_config.read(path, "constrained_search")
    known, searched = config["particle_stack_reference"], config["particle_stack_constrained"]
    template = named_file(path, project, config["template_volume_path"])
    stack = "particle_stack_reference"
    check_original_size(path, f"{stack}.original_template_size", known["original_template_size"], template)
    box = square_side(path, f"{stack}.extracted_box_size", known["extracted_box_size"])
    defocus = leopard_config.ends(config["defocus_refinement_config"], "defocus")
    return {
        "template": template,
        "particles": named_file(path, project, known["df_path"]),
        "search": named_file(path, project, searched["df_path"]),
        "box_pixel": box,
        "reach_pixel": (box - known["original_template_size"][0]) // 2,
        "centre_angstrom": config["center_vector"],
        "inverted_depth": True,
        "defocus_min_angstrom": defocus[0],
        "defocus_max_angstrom": defocus[1],
        "defocus_step_angstrom": config["defocus_refinement_config"]["defocus_step"] or 100.0,
        "enforce_zero": not config["defocus_refinement_config"]["skip_enforce_zero"],
        **_turns(path, config["orientation_refinement_config"]),
        **filter_values(config["preprocessing_filters"]),
    }


def _turns(path: Path, block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the turns and tilts that a block of orientations asks for.

    Leopard-EM turns the particle's orientation R, which leads from the image to the template, by Q Rz(φ) Ry(θ) Rz(ψ) Qᵀ
    from the left. The domain itself turns the other way, so signs change.
    """
    from halfmap.geometry.euler import array_from_euler

    if not block["enabled"]:
        return dict.fromkeys(("turn_min_degrees", "turn_max_degrees", "tilt_max_degrees"), 0.0)
    frame = array_from_euler(*block["rotation_axis_euler_angles"])
    phi, theta, psi = ((block[f"{name}_min"], block[f"{name}_max"]) for name in ("phi", "theta", "psi"))
    values: dict[str, Any] = {
        "axis": tuple(frame[2].tolist()),
        "turn_step_degrees": block["psi_step"],
        "tilt_step_degrees": block["theta_step"],
    }
    rolls, circle = block["base_grid_method"] == "roll", phi[1] - phi[0] >= 360
    if circle and not rolls and psi[1] - psi[0] < 360:
        raise InputError(
            f"`orientation_refinement_config` of {path} must not let phi go round and keep psi: near a tilt of 0 "
            f"both are the same turn; got phi of {phi[0]:g} to {phi[1]:g}° and psi of {psi[0]:g} to {psi[1]:g}°; set "
            "phi_min and phi_max to 0, or base_grid_method to roll."
        )
    if circle and not rolls:
        return values | {"turn_min_degrees": -180.0, "turn_max_degrees": 180.0, "tilt_max_degrees": theta[1]}
    with_phi = (0.0, 0.0) if rolls else phi
    values |= {"turn_min_degrees": -(psi[1] + with_phi[1]), "turn_max_degrees": -(psi[0] + with_phi[0])}
    if rolls and block["search_roll_axis"]:
        return values | {"tilt_max_degrees": max(abs(theta[0]), abs(theta[1]))}
    x, y = block["roll_axis"] if rolls else (0.0, 1.0)
    return values | {
        "tilt_axis": tuple((x * frame[0] + y * frame[1]).tolist()),
        "tilt_min_degrees": -theta[1],
        "tilt_max_degrees": -theta[0],
    }


def _default_config() -> str:
    from halfmap.io import leopard_config

    return leopard_config.default_text("constrained_search")


def _run(context: JobContext, params: ConstrainedSearchJobParams) -> Path:
    from halfmap.jobs.constrained_search_run import constrained_search

    return constrained_search(context, params)


JOB = JobType(
    command="constrained-search",
    folder="ConstrainedSearch",
    parameters=ConstrainedSearchJobParams,
    run=_run,
    summary="Look for a domain at particles whose positions and poses are known",
    inputs=("config", "particles", "template", "particle_template", "search"),
    config=ConfigFile(read=_read_config, default_text=_default_config),
)
