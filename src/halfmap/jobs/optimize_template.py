"""``halfmap optimize-template``: the pixel size and the B-factor with which a template fits its particles best."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MultipleOf

from halfmap.errors import InputError
from halfmap.jobs.model_templates import ModelTemplateParams
from halfmap.project.job import ConfigFile, JobContext, JobType
from halfmap.template_matching.params import OptimizeTemplateParams


@dataclass(frozen=True, kw_only=True)
class OptimizeTemplateJobParams(OptimizeTemplateParams, ModelTemplateParams):
    """Inputs and settings of ``halfmap optimize-template``."""

    config: Path | None = None
    """Configuration of Leopard-EM's optimize_template (YAML). Flags go before what it says."""

    particles: Path | None = None
    """Table of the particles: CSV of refine-template, match-template or Leopard-EM; or STAR file of a RELION
    refinement, which needs --statistics none."""

    template: Path | None = None
    """Atomic model (PDB or mmCIF), from which the template is made anew at each pixel size, or its map (MRC), which is
    scaled."""

    template_box_pixel: Annotated[int, Ge(8), MultipleOf(2)] | None = None
    """Side of the template made from a model. Default: that of the search whose maps the table names; without them
    what holds the model and 25 Å around it."""

    box_pixel: Annotated[int, Ge(4), MultipleOf(2)] | None = None
    """Side of the box cut out about each particle. Default: 16 px more than the template."""

    template_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the template's map, instead of the one in its header."""

    statistics: Literal["maps", "none"] = "maps"
    """Where mean and standard deviation of the scores come from: the maps that the table names, or none, with which
    scores are in standard deviations of white noise."""

    def __post_init__(self) -> None:
        OptimizeTemplateParams.__post_init__(self)
        ModelTemplateParams.__post_init__(self)
        for flag, value in (("--particles", self.particles), ("--template", self.template)):
            if value is None:
                raise InputError(f"{flag} must be given, or --config with it; got neither; name the file.")


def _read_config(project: Path, path: Path) -> Mapping[str, Any]:
    """Return the parameters that a configuration of Leopard-EM sets."""
    from halfmap.io import leopard_config
    from halfmap.jobs.leopard_inputs import filter_values, named_file, square_side

    config = leopard_config.read(path, "optimize_template")
    stack, model = config["particle_stack"], config["simulator"]
    simulated = model["simulator_config"]
    coarse, fine = (config[f"pixel_size_{name}_search"] for name in ("coarse", "fine"))
    values: dict[str, Any] = {
        "template": named_file(path, project, model["pdb_filepath"]),
        "particles": named_file(path, project, stack["df_path"]),
        "box_pixel": square_side(path, "particle_stack.extracted_box_size", stack["extracted_box_size"]),
        "template_box_pixel": square_side(
            path, "particle_stack.original_template_size", stack["original_template_size"]
        ),
        "centre": model["center_atoms"],
        "b_factor_scaling": model["b_factor_scaling"],
        "b_factor_angstrom2": model["additional_b_factor"],
        "voltage_kv": simulated["voltage"],
        "enforce_zero": not coarse["skip_enforce_zero"],
        "global_filtering": config["apply_global_filtering"],
        **filter_values(config["preprocessing_filters"]),
    }
    if simulated["apply_dose_weighting"]:
        values |= {"dose_start": simulated["dose_start"], "dose_end": simulated["dose_end"]}
    for block, name in ((coarse, "pixel_size"), (fine, "pixel_size_fine")):
        low, high = leopard_config.ends(block, "pixel_size")
        values |= {f"{name}_min_angstrom": low, f"{name}_max_angstrom": high}
        if block["pixel_size_step"] > 0:
            values[f"{name}_step_angstrom"] = block["pixel_size_step"]
    return values


def _default_config() -> str:
    from halfmap.io import leopard_config

    return leopard_config.default_text("optimize_template")


def _run(context: JobContext, params: OptimizeTemplateJobParams) -> Path:
    from halfmap.jobs.optimize_template_run import optimize

    return optimize(context, params)


JOB = JobType(
    command="optimize-template",
    folder="OptimizeTemplate",
    parameters=OptimizeTemplateJobParams,
    run=_run,
    summary="Find the pixel size and the B-factor with which a template fits its particles best",
    inputs=("config", "particles", "template"),
    outputs={"particles": "particles.csv"},
    config=ConfigFile(read=_read_config, default_text=_default_config),
)
