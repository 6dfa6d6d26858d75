"""``halfmap refine-template``: poses, positions and defoci of particles that a template has found."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MultipleOf

from halfmap.errors import InputError
from halfmap.project.job import ConfigFile, JobContext, JobType
from halfmap.template_matching.params import RefineTemplateParams


@dataclass(frozen=True, kw_only=True)
class RefineTemplateJobParams(RefineTemplateParams):
    """Inputs and settings of ``halfmap refine-template``."""

    config: Path | None = None
    """Configuration of Leopard-EM's refine_template (YAML). Flags go before what it says."""

    particles: Path | None = None
    """Table of the particles: CSV of match-template, refine-template or Leopard-EM; or STAR file of a RELION
    refinement, which needs --statistics none."""

    template: Path | None = None
    """Map of the template: density positive, centred, a cube of even side, of the micrographs' pixel size."""

    box_pixel: Annotated[int, Ge(4), MultipleOf(2)] | None = None
    """Side of the box cut out about each particle. How much it exceeds the template is how far a particle may move, and
    holds what the CTF spreads. Default: 16 px more than the template."""

    template_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the template, instead of the one in its header."""

    statistics: Literal["maps", "none"] = "maps"
    """Where mean and standard deviation of the scores come from: the maps that the table names, or none, with which
    scores are in standard deviations of white noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (("--particles", self.particles), ("--template", self.template)):
            if value is None:
                raise InputError(f"{flag} must be given, or --config with it; got neither; name the file.")


def _read_config(project: Path, path: Path) -> Mapping[str, Any]:
    """Return the parameters that a configuration of Leopard-EM sets."""
    from halfmap.io import leopard_config
    from halfmap.jobs.leopard_inputs import check_original_size, filter_values, named_file, square_side

    config = leopard_config.read(path, "refine_template")
    if config["movie_config"]["enabled"]:
        raise InputError(
            f"`movie_config.enabled` of {path} must be false: movies are not read, nor shifts and deformation fields "
            "of them; got true; align the movie and weigh its frames by exposure in the program that made the field, "
            "search that sum, and set enabled to false."
        )
    stack, turns = config["particle_stack"], config["orientation_refinement_config"]
    defocus = leopard_config.ends(config["defocus_refinement_config"], "defocus")
    size = leopard_config.ends(config["pixel_size_refinement_config"], "pixel_size")
    template = named_file(path, project, config["template_volume_path"])
    check_original_size(path, "particle_stack.original_template_size", stack["original_template_size"], template)
    values: dict[str, Any] = {
        "template": template,
        "particles": named_file(path, project, stack["df_path"]),
        "box_pixel": square_side(path, "particle_stack.extracted_box_size", stack["extracted_box_size"]),
        "orientations": turns["enabled"],
        "tilt_range_degrees": turns["theta_step_coarse"],
        "psi_range_degrees": turns["psi_step_coarse"],
        "defocus_min_angstrom": defocus[0],
        "defocus_max_angstrom": defocus[1],
        "pixel_size_min_angstrom": size[0],
        "pixel_size_max_angstrom": size[1],
        "enforce_zero": not config["defocus_refinement_config"]["skip_enforce_zero"],
        "global_filtering": config["apply_global_filtering"],
        **filter_values(config["preprocessing_filters"]),
    }
    steps = {
        "tilt_step_degrees": turns["theta_step_fine"],
        "psi_step_degrees": turns["psi_step_fine"],
        "defocus_step_angstrom": config["defocus_refinement_config"]["defocus_step"],
        "pixel_size_step_angstrom": config["pixel_size_refinement_config"]["pixel_size_step"],
    }
    return values | {name: step for name, step in steps.items() if step > 0}


def _default_config() -> str:
    from halfmap.io import leopard_config

    return leopard_config.default_text("refine_template")


def _run(context: JobContext, params: RefineTemplateJobParams) -> Path:
    from halfmap.jobs.refine_template_run import refine

    return refine(context, params)


JOB = JobType(
    command="refine-template",
    folder="RefineTemplate",
    parameters=RefineTemplateJobParams,
    run=_run,
    summary="Refine poses, positions and defoci of particles that a template has found",
    inputs=("config", "particles", "template"),
    config=ConfigFile(read=_read_config, default_text=_default_config),
)
