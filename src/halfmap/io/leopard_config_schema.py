"""The keys of Leopard-EM's configurations, program by program: kinds, limits and defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Program: TypeAlias = Literal["match_template", "refine_template", "optimize_template", "constrained_search"]
"""Programs whose configurations are known."""

REQUIRED: Any = object()


@dataclass(frozen=True)
class Key:
    """A key with a single value or a list of them.

    Parameters
    ----------
    kind : ``number``, ``integer``, ``text``, ``switch`` or ``any``.
    default : where the key is missing; `REQUIRED` must be given.
    low, high : limits of numbers, inclusive.
    above : limit of numbers, exclusive.
    length : of a list; 0 for any length; None for a single value.
    null : whether no value is a value.
    choices : the words allowed; empty for any.
    """

    kind: Literal["number", "integer", "text", "switch", "any"]
    default: Any = REQUIRED
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    length: int | None = None
    null: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Keys below a key.

    Parameters
    ----------
    keys : what it holds.
    required : whether it must be given; else all of its keys have defaults.
    null : whether no value is a value, and the default.
    open : whether other keys are passed on unread.
    listed : whether it is a list of such blocks.
    """

    keys: Mapping[str, "Key | Block"]
    required: bool = False
    null: bool = False
    open: bool = False
    listed: bool = field(default=False, kw_only=True)


_PATH = Key("text")
_NO_PATH = Key("text", default="")
_ON, _OFF = Key("switch", default=True), Key("switch", default=False)


def _number(default: Any = REQUIRED, **limits: Any) -> Key:
    return Key("number", default=default, **limits)


_OPTICS_GROUP = Block(
    {
        "label": Key("text"),
        "pixel_size": _number(above=0),
        "voltage": _number(low=40, high=1500),
        "spherical_aberration": _number(2.7),
        "amplitude_contrast_ratio": _number(0.07, low=0, high=1),
        "phase_shift": _number(0.0),
        "defocus_u": _number(),
        "defocus_v": _number(),
        "astigmatism_angle": _number(),
        "ctf_B_factor": _number(0.0, low=0),
        "even_zernikes": Key("any", default=None, null=True),
        "odd_zernikes": Key("any", default=None, null=True),
        "mag_matrix": _number(None, null=True, length=4),
        "chromatic_aberration": _number(0.0),
        "mtf_reference": Key("text", default=None, null=True),
        "mtf_values": _number(None, null=True, length=0),
        "beam_tilt_x": _number(None, null=True),
        "beam_tilt_y": _number(None, null=True),
    },
    required=True,
)


def _range(name: str, low: float, high: float, step: float | None) -> Block:
    """Return a block of offsets from ``name_min`` to ``name_max``; without a step that is needed only when enabled."""
    return Block(
        {
            "enabled": _OFF if step is None else _ON,
            f"{name}_min": _number(low),
            f"{name}_max": _number(high),
            f"{name}_step": _number(0.0 if step is None else step, low=0),
            "skip_enforce_zero": _OFF,
        }
    )


_DEFOCUS = _range("defocus", -1000.0, 1000.0, 200.0)
_PIXEL_SIZE = _range("pixel_size", 0.0, 0.0, None)

_SEARCH = {
    "psi_step": _number(1.5, above=0),
    "theta_step": _number(2.5, above=0),
    **{f"{angle}_{end}": _number(None, null=True) for angle in ("phi", "theta", "psi") for end in ("min", "max")},
    "base_grid_method": Key("text", default="uniform", choices=("uniform", "healpix", "cartesian")),
    "symmetry": Key("text", default="C1", null=True),
}
_ORIENTATION_SEARCH = Block(
    {**_SEARCH, "orientation_configs": Block(_SEARCH, listed=True, null=True)},
)
_ORIENTATION_REFINEMENT = Block(
    {
        "enabled": _ON,
        **{
            f"{angle}_step_{part}": _number(step, low=0)
            for angle, coarse, fine in (("psi", 1.5, 0.1), ("theta", 2.5, 0.25), ("phi", 2.5, 0.25))
            for part, step in (("coarse", coarse), ("fine", fine))
        },
        "base_grid_method": Key("text", default="uniform", choices=("uniform", "healpix", "basic", "cartesian")),
    }
)
_ORIENTATION_CONSTRAINED = Block(
    {
        "enabled": _ON,
        "phi_step": _number(None, null=True, above=0),
        "theta_step": _number(2.5, above=0),
        "psi_step": _number(1.5, above=0),
        "rotation_axis_euler_angles": _number((0.0, 0.0, 0.0), length=3),
        "phi_min": _number(0.0),
        "phi_max": _number(360.0),
        "theta_min": _number(0.0),
        "theta_max": _number(180.0),
        "psi_min": _number(0.0),
        "psi_max": _number(360.0),
        "base_grid_method": Key("text", default="uniform", choices=("uniform", "healpix", "basic", "roll")),
        "search_roll_axis": _ON,
        "roll_axis": _number((0.0, 1.0), length=2),
        "roll_step": _number(2.0, above=0),
    }
)
_FILTERS = Block(
    {
        "whitening_filter": Block(
            {
                "enabled": _ON,
                "num_freq_bins": Key("integer", default=None, null=True, low=2),
                "max_freq": _number(0.5, null=True, above=0),
                "do_power_spectrum": _ON,
            }
        ),
        "bandpass_filter": Block(
            {
                "enabled": _OFF,
                "low_freq_cutoff": _number(None, null=True, low=0),
                "high_freq_cutoff": _number(None, null=True, low=0),
                "falloff": _number(None, null=True, low=0),
            }
        ),
        "phase_randomization_filter": Block({"enabled": _OFF, "cuton": _number(None, null=True, low=0)}),
        "arbitrary_curve_filter": Block(
            {
                "enabled": _OFF,
                "frequencies": _number(None, null=True, length=0),
                "amplitudes": _number(None, null=True, length=0),
            }
        ),
    }
)
_COMPUTATION = Block(
    {
        "gpu_ids": Key("any", default=(0,)),
        "num_cpus": Key("integer", default=1, low=1),
        "backend": Key("text", default=None, null=True, choices=("streamed", "batched")),
    },
    open=True,
)
_STACK = Block(
    {
        "df_path": _PATH,
        "extracted_box_size": Key("integer", low=2, length=2),
        "original_template_size": Key("integer", low=2, length=2),
    },
    required=True,
)
_MOVIE = Block(
    {
        "enabled": _OFF,
        "movie_path": _NO_PATH,
        "deformation_field_path": _NO_PATH,
        "particle_shifts_path": _NO_PATH,
        "pre_exposure": _number(0.0, low=0),
        "fluence_per_frame": _number(1.0, above=0),
    }
)
_RESULT = Block(
    {
        "allow_file_overwrite": _OFF,
        **{
            f"{name}_path": _PATH
            for name in (
                "mip",
                "scaled_mip",
                "correlation_average",
                "correlation_variance",
                "orientation_psi",
                "orientation_theta",
                "orientation_phi",
                "relative_defocus",
            )
        },
        **{
            f"total_{name}": Key("integer", default=0, null=True) for name in ("projections", "orientations", "defocus")
        },
    },
    required=True,
)
_SIMULATOR = Block(
    {
        "pdb_filepath": _PATH,
        "pixel_spacing": _number(1.0, above=0),
        "volume_shape": Key("integer", default=(400, 400, 400), low=2, length=3),
        "center_atoms": _ON,
        "remove_hydrogens": _ON,
        "b_factor_scaling": _number(1.0, low=0),
        "additional_b_factor": _number(0.0),
        "simulator_config": Block(
            {
                "voltage": _number(300.0, low=40, high=1500),
                "apply_dose_weighting": _ON,
                "crit_exposure_bfactor": _number(-1.0),
                "dose_filter_modify_signal": Key(
                    "text", default="None", null=True, choices=("None", "sqrt", "rel_diff")
                ),
                "dose_start": _number(0.0, low=0),
                "dose_end": _number(30.0, low=0),
                "apply_dqe": _ON,
                "mtf_reference": Key("text", default="k2_300kv"),
                "upsampling": Key("integer", default=-1),
                "store_volume": Key("any", default=False, null=True),
                "atom_batch_size": Key("integer", default=16384, low=1),
            },
            open=True,
        ),
    },
    required=True,
    open=True,
)

SCHEMAS: Mapping[str, Block] = {
    "match_template": Block(
        {
            "micrograph_path": _PATH,
            "template_volume_path": _PATH,
            "optics_group": _OPTICS_GROUP,
            "defocus_search_config": _DEFOCUS,
            "pixel_size_search_config": _PIXEL_SIZE,
            "orientation_search_config": _ORIENTATION_SEARCH,
            "preprocessing_filters": _FILTERS,
            "match_template_result": _RESULT,
            "computational_config": _COMPUTATION,
        }
    ),
    "refine_template": Block(
        {
            "template_volume_path": _PATH,
            "particle_stack": _STACK,
            "defocus_refinement_config": _DEFOCUS,
            "orientation_refinement_config": _ORIENTATION_REFINEMENT,
            "pixel_size_refinement_config": _PIXEL_SIZE,
            "preprocessing_filters": _FILTERS,
            "computational_config": _COMPUTATION,
            "movie_config": _MOVIE,
            "apply_global_filtering": _ON,
        }
    ),
    "optimize_template": Block(
        {
            "particle_stack": _STACK,
            "pixel_size_coarse_search": _PIXEL_SIZE,
            "pixel_size_fine_search": _PIXEL_SIZE,
            "preprocessing_filters": _FILTERS,
            "computational_config": _COMPUTATION,
            "apply_global_filtering": _ON,
            "simulator": _SIMULATOR,
        }
    ),
    "constrained_search": Block(
        {
            "template_volume_path": _PATH,
            "center_vector": _number((0.0, 0.0, 0.0), length=3),
            "particle_stack_reference": _STACK,
            "particle_stack_constrained": _STACK,
            "defocus_refinement_config": _DEFOCUS,
            "orientation_refinement_config": _ORIENTATION_CONSTRAINED,
            "preprocessing_filters": _FILTERS,
            "computational_config": _COMPUTATION,
        }
    ),
}
