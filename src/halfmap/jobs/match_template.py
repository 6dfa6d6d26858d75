"""``halfmap match-template``: a template looked for in every orientation, at every place of micrographs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from halfmap.errors import InputError
from halfmap.project.job import ConfigFile, JobContext, JobType
from halfmap.template_matching.global_search.params import MatchTemplateParams


@dataclass(frozen=True, kw_only=True)
class MatchTemplateJobParams(MatchTemplateParams):
    """Inputs and settings of ``halfmap match-template``."""

    config: Path | None = None
    """Configuration of Leopard-EM's match_template (YAML). Flags go before what it says."""

    micrograph: Path | None = None
    """The micrograph, as recorded: particles dark."""

    micrographs: Path | None = None
    """STAR file of many micrographs with their CTF, instead of one and its --defocus-u and optics: each is searched by
    itself."""

    template: Path | None = None
    """Map of the template: density positive, centred, a cube of even side, of the micrograph's pixel size."""

    pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the micrographs. Default: that of their header or table."""

    template_pixel_size_angstrom: Annotated[float, Gt(0)] | None = None
    """Pixel size of the template, instead of the one in its header."""

    defocus_u_angstrom: float | None = None
    """Defocus of the micrograph along the angle, underfocus positive."""

    defocus_v_angstrom: float | None = None
    """Defocus across it. Default: the same, no astigmatism."""

    defocus_angle_degrees: float = 0.0
    """Angle of the first defocus, from x towards y."""

    voltage_kv: Annotated[float, Ge(40), Le(1500)] = 300.0
    """Acceleration voltage."""

    spherical_aberration_mm: Annotated[float, Ge(0)] = 2.7
    """Spherical aberration."""

    amplitude_contrast: Annotated[float, Ge(0), Le(1)] = 0.07
    """Share of the amplitude contrast."""

    phase_shift_degrees: float = 0.0
    """Phase shift of a phase plate."""

    ctf_b_factor_angstrom2: Annotated[float, Ge(0)] = 0.0
    """B-factor by which the CTF falls off."""

    even_zernike: tuple[float, ...] = ()
    """Even aberrations, radians, in the order of RELION's rlnEvenZernike."""

    odd_zernike: tuple[float, ...] = ()
    """Odd aberrations, radians, in the order of RELION's rlnOddZernike."""

    beam_tilt_mrad: tuple[float, float] | None = None
    """Beam tilt x,y, as RELION has it; in place of the axial coma among the odd aberrations."""

    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    """Anisotropic magnification: RELION's rlnMagMat00, 01, 10, 11."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micrograph is None and self.micrographs is None:
            raise InputError("--micrograph must be given, or --micrographs or --config; got neither; name the file.")
        if self.micrograph is not None and self.micrographs is not None:
            raise InputError("Either --micrograph or --micrographs must be given; got both; leave one out.")
        if self.template is None:
            raise InputError("--template must be given, or --config with it; got neither; name the file.")
        a, b, c, d = self.magnification
        if abs(a * d - b * c) < 0.1:
            raise InputError(
                f"--magnification must be near 1,0,0,1; got {a:g},{b:g},{c:g},{d:g}; give the rows of RELION's matrix."
            )
        if self.defocus_u_angstrom is None and self.micrographs is None:
            raise InputError(
                "--defocus-u must be given, or --config with it; got neither; take it from the micrograph's CTF fit."
            )


def _read_config(project: Path, path: Path) -> Mapping[str, Any]:
    """Return the parameters that a configuration of Leopard-EM sets."""
    from halfmap.io import leopard_config
    from halfmap.jobs.leopard_inputs import aberrations_of_config, filter_values, named_file

    config = leopard_config.read(path, "match_template")
    optics, search = config["optics_group"], config["orientation_search_config"]
    _check_known(path, optics, search)
    aberrations = aberrations_of_config(path, optics)
    defocus = leopard_config.ends(config["defocus_search_config"], "defocus")
    size = leopard_config.ends(config["pixel_size_search_config"], "pixel_size")
    values: dict[str, Any] = {
        "micrograph": named_file(path, project, config["micrograph_path"]),
        "template": named_file(path, project, config["template_volume_path"]),
        "pixel_size_angstrom": optics["pixel_size"],
        "defocus_u_angstrom": optics["defocus_u"],
        "defocus_v_angstrom": optics["defocus_v"],
        "defocus_angle_degrees": optics["astigmatism_angle"],
        "voltage_kv": optics["voltage"],
        "spherical_aberration_mm": optics["spherical_aberration"],
        "amplitude_contrast": optics["amplitude_contrast_ratio"],
        "phase_shift_degrees": optics["phase_shift"],
        "ctf_b_factor_angstrom2": optics["ctf_B_factor"],
        "even_zernike": aberrations.even_zernike,
        "odd_zernike": aberrations.odd_zernike,
        "magnification": aberrations.magnification,
        "theta_step_degrees": search["theta_step"],
        "psi_step_degrees": search["psi_step"],
        "symmetry": search["symmetry"] or "C1",
        "defocus_min_angstrom": defocus[0],
        "defocus_max_angstrom": defocus[1],
        "pixel_size_min_angstrom": size[0],
        "pixel_size_max_angstrom": size[1],
        "enforce_zero": not config["defocus_search_config"]["skip_enforce_zero"],
        **filter_values(config["preprocessing_filters"]),
    }
    ranges = {f"{angle}_{end}": search[f"{angle}_{end}"] for angle in ("phi", "theta", "psi") for end in ("min", "max")}
    values |= {f"{name}_degrees": value for name, value in ranges.items() if value is not None}
    steps = {
        "defocus_step_angstrom": config["defocus_search_config"]["defocus_step"],
        "pixel_size_step_angstrom": config["pixel_size_search_config"]["pixel_size_step"],
    }
    return values | {name: step for name, step in steps.items() if step > 0}


def _check_known(path: Path, optics: Mapping[str, Any], search: Mapping[str, Any]) -> None:
    """Raise where a configuration asks for what is not done."""
    if optics["beam_tilt_x"] or optics["beam_tilt_y"]:
        raise InputError(
            f"`optics_group.beam_tilt_x` and `beam_tilt_y` of {path} must be null, as Leopard-EM makes no use of them; "
            f"got {optics['beam_tilt_x']} and {optics['beam_tilt_y']}; give --beam-tilt x,y in RELION's sense."
        )
    if search["orientation_configs"]:
        raise InputError(
            f"`orientation_search_config` of {path} must be one grid; got a list in orientation_configs; run one job "
            "for each."
        )
    if search["base_grid_method"] != "uniform":
        raise InputError(
            f"`orientation_search_config.base_grid_method` of {path} must be uniform; got "
            f"{search['base_grid_method']}; change it, the steps keep their meaning."
        )


def _default_config() -> str:
    from halfmap.io import leopard_config

    return leopard_config.default_text("match_template")


def _run(context: JobContext, params: MatchTemplateJobParams) -> Path:
    from halfmap.jobs.match_template_run import match

    return match(context, params)


JOB = JobType(
    command="match-template",
    folder="MatchTemplate",
    parameters=MatchTemplateJobParams,
    run=_run,
    summary="Look for a template in every orientation, at every place of micrographs",
    inputs=("config", "micrograph", "micrographs", "template"),
    outputs={"particles": "particles.csv"},
    config=ConfigFile(read=_read_config, default_text=_default_config),
)
