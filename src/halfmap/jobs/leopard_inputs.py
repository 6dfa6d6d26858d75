"""What jobs read of Leopard-EM's files: settings that its programs share, and the files that they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfmap.errors import InputError
from halfmap.io.relion_paths import resolve_paths


def named_file(config: Path, project: Path, name: str) -> Path:
    """Return the file that a configuration names, absolute.

    Raises
    ------
    FormatError
        It is not there; lists the places that were tried.
    """
    return resolve_paths(config, project, [name]) / name


def filter_values(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `FilterParams` that a block ``preprocessing_filters`` sets."""
    whitening, band = filters["whitening_filter"], filters["bandpass_filter"]
    phases, curve = filters["phase_randomization_filter"], filters["arbitrary_curve_filter"]
    values: dict[str, Any] = {
        "whitening": whitening["enabled"],
        "whitening_bins": whitening["num_freq_bins"],
        "whitening_max_frequency": whitening["max_freq"],
        "whiten_by_amplitude": not whitening["do_power_spectrum"],
    }
    if band["enabled"]:
        values |= {
            "bandpass_low": band["low_freq_cutoff"],
            "bandpass_high": band["high_freq_cutoff"],
            "bandpass_falloff": band["falloff"],
        }
    if phases["enabled"]:
        values["randomise_phases_from"] = phases["cuton"] or 0.0
    if curve["enabled"]:
        values |= {
            "filter_frequencies": curve["frequencies"] or (),
            "filter_amplitudes": curve["amplitudes"] or (),
        }
    return values


def square_side(config: Path, key: str, sides: tuple[int, int]) -> int:
    """Return the side of a square.

    Raises
    ------
    InputError
        It is none.
    """
    if sides[0] != sides[1]:
        raise InputError(f"`{key}` of {config} must be a square; got {sides[0]}×{sides[1]} px; give two equal sides.")
    return sides[0]
