"""What jobs read of Leopard-EM's files: settings that its programs share, and the files that they name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfmap.errors import InputError
from halfmap.grid import ImageGrid
from halfmap.io.relion_paths import resolve_paths

if TYPE_CHECKING:
    from halfmap.data.volumes import Volume
    from halfmap.io.leopard_aberrations import StoredAberrations

SAME_PIXEL_SIZE = 0.01
"""Relative difference of pixel sizes up to which template and micrographs count as sampled alike."""

NOTED_PIXEL_SIZE = 1e-4
"""Relative difference above which that is said."""


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


def aberrations_of_config(config: Path, optics: Mapping[str, Any]) -> "StoredAberrations":
    """Return the aberrations of a block ``optics_group``, in RELION's terms.

    Raises
    ------
    InputError
        A coefficient is unknown or no number, or the matrix is none.
    """
    from halfmap.io.leopard_aberrations import StoredAberrations, coefficients, magnification_of

    values: dict[str, Any] = {}
    for name in ("even_zernikes", "odd_zernikes", "mag_matrix"):
        if not optics[name]:
            continue
        try:
            if name == "mag_matrix":
                values["magnification"] = magnification_of(optics[name])
            else:
                values[name.removesuffix("s")] = coefficients(dict(optics[name]), name)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"`optics_group.{name}` of {config} must hold aberrations; got {error}; mend or leave it out."
            ) from error
    return StoredAberrations(**values)


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


def check_pixel_offset(lowest_angstrom: float, pixel_size_angstrom: float, flag: str) -> None:
    """Raise where a pixel size less an offset would be none.

    Parameters
    ----------
    lowest_angstrom : offset of the pixel size.
    pixel_size_angstrom : of the micrographs.
    flag : by which the offset was given.

    Raises
    ------
    InputError
        Nothing would be left.
    """
    if lowest_angstrom <= -pixel_size_angstrom:
        raise InputError(
            f"{flag} must be above −{pixel_size_angstrom:g} Å, as it is added to the pixel size; got "
            f"{lowest_angstrom:g} Å; give the difference from the pixel size, not the pixel size itself."
        )


def check_pixel_size(template: Path, grid: ImageGrid, pixel_size_angstrom: float, of: str) -> None:
    """Raise unless a template is sampled as the micrographs are.

    Parameters
    ----------
    template, grid : its file and its grid.
    pixel_size_angstrom : of the micrographs.
    of : what has that pixel size, for the message.

    Raises
    ------
    InputError
        It is not.
    """
    own = grid.pixel_size_angstrom
    if abs(own / pixel_size_angstrom - 1) > SAME_PIXEL_SIZE:
        raise InputError(
            f"The template must have the pixel size of the {of}, {pixel_size_angstrom:g} Å; got {own:g} Å in "
            f"{template}; resample it with `halfmap volume resample`, or correct it with --template-pixel-size."
        )


def open_template(
    path: Path, pixel_size_angstrom: float | None, of_micrographs_angstrom: float, of: str, said: list[str]
) -> "Volume":
    """Read a template, and count its voxels as the micrographs' pixels.

    Parameters
    ----------
    path : the map.
    pixel_size_angstrom : instead of the one in its header.
    of_micrographs_angstrom : their pixel size, which the volume that is returned has.
    of : what has that pixel size, for the message.
    said : gains a sentence where the template's own pixel size differs a little.

    Raises
    ------
    InputError, ShapeError
        It is no template, or has another pixel size.
    """
    from halfmap.data.volumes import Volume
    from halfmap.jobs.map_inputs import read_map
    from halfmap.template_matching.template import check_template

    volume = read_map(path, pixel_size_angstrom, flag="--template-pixel-size")
    own, wanted = volume.grid.pixel_size_angstrom, of_micrographs_angstrom
    check_pixel_size(path, volume.grid, wanted, of)
    check_template(volume.values, volume.grid)
    if abs(own / wanted - 1) > NOTED_PIXEL_SIZE:
        said.append(
            f"The pixel size of {path.name}, {own:.6g} Å, is taken for that of the {of}, {wanted:.6g} Å: the template "
            f"counts as {100 * (wanted / own - 1):+.2f} % larger than its header says. Make it anew at that pixel size "
            "if the header is right."
        )
    return Volume(values=volume.values, grid=ImageGrid(shape=volume.grid.shape, pixel_size_angstrom=wanted))


def check_original_size(config: Path, key: str, sides: tuple[int, int], template: Path) -> None:
    """Raise unless a configuration states the sides that its template has.

    Raises
    ------
    InputError
        It states others.
    """
    from halfmap.io import mrc

    shape = mrc.read_header(template).shape
    if tuple(sides) != tuple(shape[-2:]):
        raise InputError(
            f"`{key}` of {config} must be the sides of its template, {shape[-1]}×{shape[-2]} px in {template}; got "
            f"{sides[1]}×{sides[0]} px; mend it, or name the template of that size."
        )
