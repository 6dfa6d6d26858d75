"""Live2D's names of settings, and the settings of its ``latest_run.json``."""

from collections.abc import Mapping
from typing import Any

from halfmap.errors import InputError

SETTINGS = {
    "mask_radius": "mask_radius_angstrom",
    "classification_type": "classification_type",
    "high_res_initial": "initial_resolution_angstrom",
    "high_res_final": "final_resolution_angstrom",
    "run_count_startup": "startup_cycles",
    "run_count_refine": "refinement_cycles",
    "particle_count_initial": "first_threshold",
    "particle_count_update": "next_threshold",
    "class_number": "classes",
    "particles_per_class": "particles_per_class",
    "automask": "automask",
    "autocenter": "autocentre",
}
"""Live2D's name of each setting that people choose, and ours."""

FROM_SOURCE = {
    "box_size": "box_pixel",
    "pixel_size": "pixel_size_angstrom",
    "neural_net": "net_name",
    "warp_value_cutoff": "score_threshold",
}
"""Live2D's name of each setting that is read from Warp, and ours."""


def own_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under our names; those that are read from Warp, and unknown ones, are left out."""
    return {ours: given[theirs] for theirs, ours in SETTINGS.items() if theirs in given}


def settings_of_run(given: Any) -> dict[str, Any]:
    """Return what ``settings`` of a ``latest_run.json`` say, under our names.

    Live2D keeps what was typed as it came, so that numbers may be text.

    Raises
    ------
    InputError
        There are none.
    """
    found = own_settings(given) if isinstance(given, Mapping) else {}
    if not found:
        raise InputError(
            "The file must be Live2D's latest_run.json with its settings; got none of its names; choose the file in "
            "Live2D's working directory."
        )
    return {name: _number(value) if isinstance(value, str) else value for name, value in found.items()}


def _number(text: str) -> float | int | str:
    """Return a number that was kept as text; other text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value
