"""Leopard-EM's configurations (YAML): what its programs are told, checked key by key."""

import importlib.resources
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from halfmap.errors import FormatError

Program: TypeAlias = Literal["match_template", "refine_template", "optimize_template", "constrained_search"]
"""Programs whose configurations are known."""

_REQUIRED: Any = object()


@dataclass(frozen=True)
class _Key:
    """A key with a single value or a list of them.

    Parameters
    ----------
    kind : ``number``, ``integer``, ``text``, ``switch`` or ``any``.
    default : where the key is missing; `_REQUIRED` must be given.
    low, high : limits of numbers, inclusive.
    above : limit of numbers, exclusive.
    length : of a list; 0 for any length; None for a single value.
    null : whether no value is a value.
    choices : the words allowed; empty for any.
    """

    kind: Literal["number", "integer", "text", "switch", "any"]
    default: Any = _REQUIRED
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    length: int | None = None
    null: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Block:
    """Keys below a key.

    Parameters
    ----------
    keys : what it holds.
    required : whether it must be given; else all of its keys have defaults.
    null : whether no value is a value, and the default.
    open : whether other keys are passed on unread.
    listed : whether it is a list of such blocks.
    """

    keys: Mapping[str, "_Key | _Block"]
    required: bool = False
    null: bool = False
    open: bool = False
    listed: bool = field(default=False, kw_only=True)


_PATH = _Key("text")
_NO_PATH = _Key("text", default="")
_ON, _OFF = _Key("switch", default=True), _Key("switch", default=False)


def _number(default: Any = _REQUIRED, **limits: Any) -> _Key:
    return _Key("number", default=default, **limits)


_OPTICS_GROUP = _Block(
    {
        "label": _Key("text"),
        "pixel_size": _number(above=0),
        "voltage": _number(low=40, high=1500),
        "spherical_aberration": _number(2.7),
        "amplitude_contrast_ratio": _number(0.07, low=0, high=1),
        "phase_shift": _number(0.0),
        "defocus_u": _number(),
        "defocus_v": _number(),
        "astigmatism_angle": _number(),
        "ctf_B_factor": _number(0.0, low=0),
        "even_zernikes": _Key("any", default=None, null=True),
        "odd_zernikes": _Key("any", default=None, null=True),
        "mag_matrix": _number(None, null=True, length=4),
        "chromatic_aberration": _number(0.0),
        "mtf_reference": _Key("text", default=None, null=True),
        "mtf_values": _number(None, null=True, length=0),
        "beam_tilt_x": _number(None, null=True),
        "beam_tilt_y": _number(None, null=True),
    },
    required=True,
)


def _range(name: str, low: float, high: float, step: float | None) -> _Block:
    """Return a block of offsets from ``name_min`` to ``name_max``; without a step that is needed only when enabled."""
    return _Block(
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
    "base_grid_method": _Key("text", default="uniform", choices=("uniform", "healpix", "cartesian")),
    "symmetry": _Key("text", default="C1", null=True),
}
_ORIENTATION_SEARCH = _Block(
    {**_SEARCH, "orientation_configs": _Block(_SEARCH, listed=True, null=True)},
)
_ORIENTATION_REFINEMENT = _Block(
    {
        "enabled": _ON,
        **{
            f"{angle}_step_{part}": _number(step, low=0)
            for angle, coarse, fine in (("psi", 1.5, 0.1), ("theta", 2.5, 0.25), ("phi", 2.5, 0.25))
            for part, step in (("coarse", coarse), ("fine", fine))
        },
        "base_grid_method": _Key("text", default="uniform", choices=("uniform", "healpix", "basic", "cartesian")),
    }
)
_ORIENTATION_CONSTRAINED = _Block(
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
        "base_grid_method": _Key("text", default="uniform", choices=("uniform", "healpix", "basic", "roll")),
        "search_roll_axis": _ON,
        "roll_axis": _number((0.0, 1.0), length=2),
        "roll_step": _number(2.0, above=0),
    }
)
_FILTERS = _Block(
    {
        "whitening_filter": _Block(
            {
                "enabled": _ON,
                "num_freq_bins": _Key("integer", default=None, null=True, low=2),
                "max_freq": _number(0.5, null=True, above=0),
                "do_power_spectrum": _ON,
            }
        ),
        "bandpass_filter": _Block(
            {
                "enabled": _OFF,
                "low_freq_cutoff": _number(None, null=True, low=0),
                "high_freq_cutoff": _number(None, null=True, low=0),
                "falloff": _number(None, null=True, low=0),
            }
        ),
        "phase_randomization_filter": _Block({"enabled": _OFF, "cuton": _number(None, null=True, low=0)}),
        "arbitrary_curve_filter": _Block(
            {
                "enabled": _OFF,
                "frequencies": _number(None, null=True, length=0),
                "amplitudes": _number(None, null=True, length=0),
            }
        ),
    }
)
_COMPUTATION = _Block(
    {
        "gpu_ids": _Key("any", default=(0,)),
        "num_cpus": _Key("integer", default=1, low=1),
        "backend": _Key("text", default=None, null=True, choices=("streamed", "batched")),
    },
    open=True,
)
_STACK = _Block(
    {
        "df_path": _PATH,
        "extracted_box_size": _Key("integer", low=2, length=2),
        "original_template_size": _Key("integer", low=2, length=2),
    },
    required=True,
)
_MOVIE = _Block(
    {
        "enabled": _OFF,
        "movie_path": _NO_PATH,
        "deformation_field_path": _NO_PATH,
        "particle_shifts_path": _NO_PATH,
        "pre_exposure": _number(0.0, low=0),
        "fluence_per_frame": _number(1.0, above=0),
    }
)
_RESULT = _Block(
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
            f"total_{name}": _Key("integer", default=0, null=True)
            for name in ("projections", "orientations", "defocus")
        },
    },
    required=True,
)
_SIMULATOR = _Block(
    {
        "pdb_filepath": _PATH,
        "pixel_spacing": _number(1.0, above=0),
        "volume_shape": _Key("integer", default=(400, 400, 400), low=2, length=3),
        "center_atoms": _ON,
        "remove_hydrogens": _ON,
        "b_factor_scaling": _number(1.0, low=0),
        "additional_b_factor": _number(0.0),
        "simulator_config": _Block(
            {
                "voltage": _number(300.0, low=40, high=1500),
                "apply_dose_weighting": _ON,
                "crit_exposure_bfactor": _number(-1.0),
                "dose_filter_modify_signal": _Key(
                    "text", default="None", null=True, choices=("None", "sqrt", "rel_diff")
                ),
                "dose_start": _number(0.0, low=0),
                "dose_end": _number(30.0, low=0),
                "apply_dqe": _ON,
                "mtf_reference": _Key("text", default="k2_300kv"),
                "upsampling": _Key("integer", default=-1),
                "store_volume": _Key("any", default=False, null=True),
                "atom_batch_size": _Key("integer", default=16384, low=1),
            },
            open=True,
        ),
    },
    required=True,
    open=True,
)

_SCHEMAS: Mapping[str, _Block] = {
    "match_template": _Block(
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
    "refine_template": _Block(
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
    "optimize_template": _Block(
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
    "constrained_search": _Block(
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


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a block, of which plain YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the keys and values of a block."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key `{name}` twice, first in line {seen[name]}", problem_mark=key.start_mark
                )
            seen[name] = line
        return super().construct_mapping(node, deep)


_NEEDED_WHERE_ENABLED = ("cuton", "frequencies", "amplitudes")
_WORDS = {"number": "a number", "integer": "a whole number", "text": "text", "switch": "true or false"}


def read(path: str | Path, program: Program) -> dict[str, Any]:
    """Read a configuration.

    Parameters
    ----------
    path : the YAML file, of Leopard-EM 1.x.
    program : whose it is.

    Returns
    -------
    Block → key → value, complete: what the file leaves out has Leopard-EM's default. Lists are tuples; a block that
    may be missing altogether is None.

    Raises
    ------
    FormatError
        The file is no YAML, or a key is unknown or missing or has a value outside its domain. All of them are named,
        as ``block.key``, an unknown one beside the nearest that is known.
    """
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(path, expected="a readable YAML file", found=f"'{error}'") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise FormatError(
            path,
            line=None if mark is None else mark.line + 1,
            expected="YAML in which every key stands once",
            found=f"'{getattr(error, 'problem', None) or error}'",
            remedy="mend the line",
        ) from error
    complaints: list[str] = []
    values = _read_block(_SCHEMAS[program], content, "", complaints)
    if complaints:
        raise FormatError(
            path,
            expected=f"a configuration of {program}",
            found="; ".join(complaints),
            remedy="mend the file, or write a new one with --write-config",
        )
    return values


def default_text(program: Program) -> str:
    """Return the commented configuration that ships with halfmap."""
    return importlib.resources.files("halfmap.io").joinpath(f"leopard_defaults/{program}.yaml").read_text("utf-8")


def offsets(block: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Return the offsets that a block of ``name_min``, ``name_max`` and ``name_step`` asks for.

    Parameters
    ----------
    block : of `read`.
    name : ``defocus`` or ``pixel_size``.

    Returns
    -------
    Ascending, 0 among them unless ``skip_enforce_zero``; 0 alone where the block is not enabled.
    """
    if not block["enabled"]:
        return (0.0,)
    low, high, step = (float(block[f"{name}_{part}"]) for part in ("min", "max", "step"))
    n = math.ceil((high + step - low) / step - 1e-9) if step > 0 else 1
    values = [low + step * i for i in range(n)]
    if not block["skip_enforce_zero"] and not any(abs(value) < 1e-9 for value in values):
        values.append(0.0)
    return tuple(sorted(0.0 if abs(value) < 1e-9 else value for value in values))


def ends(block: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return the first and the last of the steps that a block asks for, a zero between or beside them left aside.

    Parameters
    ----------
    block, name : as of `offsets`.
    """
    steps = offsets({**block, "skip_enforce_zero": True}, name)
    return steps[0], steps[-1]


def _read_block(block: _Block, content: Any, place: str, complaints: list[str]) -> dict[str, Any]:
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        complaints.append(f"`{place or 'the file'}` must hold keys; got {content!r}")
        return {}
    values: dict[str, Any] = {}
    for name in content:
        if name not in block.keys:
            if block.open:
                values[str(name)] = content[name]
            else:
                complaints.append(_unknown(str(name), block, place))
    for name, entry in block.keys.items():
        where = f"{place}.{name}" if place else name
        if isinstance(entry, _Key):
            values[name] = _read_key(entry, name, content, where, complaints)
        elif name not in content and entry.required:
            complaints.append(f"`{where}` is missing")
        elif content.get(name) is None and entry.null:
            values[name] = None
        elif entry.listed:
            values[name] = _read_list(entry, content[name], where, complaints)
        else:
            values[name] = _read_block(entry, content.get(name), where, complaints)
    _check_range(values, place, complaints)
    if values.get("enabled"):
        missing = [name for name in _NEEDED_WHERE_ENABLED if name in block.keys and values[name] is None]
        complaints += [f"`{place}.{name}` must be given where the block is enabled; got null" for name in missing]
    return values


def _read_list(block: _Block, content: Any, place: str, complaints: list[str]) -> tuple[dict[str, Any], ...]:
    if not isinstance(content, list):
        complaints.append(f"`{place}` must be a list; got {content!r}")
        return ()
    return tuple(_read_block(block, item, f"{place}[{i}]", complaints) for i, item in enumerate(content))


def _unknown(name: str, block: _Block, place: str) -> str:
    near = get_close_matches(name, block.keys, n=1, cutoff=0.5)
    said = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(block.keys)}"
    return f"`{place}.{name}` is unknown: {said}" if place else f"`{name}` is unknown: {said}"


def _read_key(key: _Key, name: str, content: Mapping[str, Any], where: str, complaints: list[str]) -> Any:
    if name not in content:
        if key.default is _REQUIRED:
            complaints.append(f"`{where}` is missing")
        return key.default
    value = content[name]
    if value is None and key.null:
        return None
    if key.length is None:
        return _read_value(key, value, where, complaints)
    if not isinstance(value, list) or (key.length and len(value) != key.length):
        wanted = f"a list of {key.length} values" if key.length else "a list"
        complaints.append(f"`{where}` must be {wanted}; got {value!r}")
        return None
    return tuple(_read_value(key, item, f"{where}[{i}]", complaints) for i, item in enumerate(value))


def _read_value(key: _Key, value: Any, where: str, complaints: list[str]) -> Any:
    if key.kind == "any":
        return value
    read = _as_kind(key.kind, value)
    if read is None:
        complaints.append(f"`{where}` must be {_WORDS[key.kind]}; got {value!r}")
        return None
    if key.choices and read not in key.choices:
        near = get_close_matches(str(read), key.choices, n=1, cutoff=0.5)
        said = f"; did you mean {near[0]}?" if near else ""
        complaints.append(f"`{where}` must be one of {', '.join(key.choices)}; got {value!r}{said}")
    if key.kind in ("number", "integer"):
        limits = [f"≥ {key.low:g}"] if key.low > -math.inf and not read >= key.low else []
        limits += [f"≤ {key.high:g}"] if not read <= key.high else []
        limits += [f"> {key.above:g}"] if key.above > -math.inf and not read > key.above else []
        if limits or not math.isfinite(read):
            complaints.append(f"`{where}` must be {' and '.join(limits) or 'finite'}; got {value!r}")
    return read


def _as_kind(kind: str, value: Any) -> Any:
    """Return a value of the kind asked for, None where it is none. YAML reads 1e-3 as text, so numbers may be text."""
    if kind == "switch":
        return value if isinstance(value, bool) else None
    if kind == "text":
        return None if isinstance(value, bool | list | Mapping) or value is None else str(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if kind == "number":
        return number
    return int(number) if number.is_integer() else None


def _check_range(values: Mapping[str, Any], place: str, complaints: list[str]) -> None:
    """Complain of a range that ends before it begins, or of one without a step."""
    for name in ("defocus", "pixel_size"):
        numbers = [values.get(f"{name}_{part}") for part in ("min", "max", "step")]
        known = [number for number in numbers if isinstance(number, int | float)]
        if not values.get("enabled") or len(known) < 3:
            continue
        low, high, step = known
        if high < low:
            complaints.append(f"`{place}.{name}_max` must be ≥ {name}_min, {low:g}; got {high:g}")
        if not step > 0:
            complaints.append(f"`{place}.{name}_step` must be > 0 where the block is enabled; got {step:g}")
