"""The list of a tilt series' images, ``.tomostar`` of Warp."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import FormatError
from halfmap.io import star, warp_xml

_MOVIE, _TILT, _DOSE, _AXIS = "wrpMovieName", "wrpAngleTilt", "wrpDose", "wrpAxisAngle"
_OFFSETS = ("wrpAxisOffsetX", "wrpAxisOffsetY")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tomostar:
    """Tilts in the order of the file, which is that of their angles.

    Parameters
    ----------
    movie_names : as the file has them: of movies in the folder of their metadata, relative to the file's own.
    tilt_angle_degrees : (T,), Warp's: by default the negated angle of the stage.
    axis_angle_degrees : (T,), from the image's +y to the tilt axis.
    dose_e_per_angstrom2 : (T,), what the sample had taken before each tilt.
    axis_offset_angstrom : (T, 2), zeros where the file has none.
    further : other columns by their names, as text.
    """

    movie_names: tuple[str, ...]
    tilt_angle_degrees: NDArray[np.float64]
    axis_angle_degrees: NDArray[np.float64]
    dose_e_per_angstrom2: NDArray[np.float64]
    axis_offset_angstrom: NDArray[np.float64]
    further: dict[str, NDArray[np.object_]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of tilts."""
        return len(self.movie_names)


def is_tomostar(table: star.StarTable) -> bool:
    """Tell whether a STAR table lists the images of a tilt series."""
    return all(label in table for label in (_MOVIE, _TILT, _DOSE))


def read_tomostar(path: str | Path) -> Tomostar:
    """Read the list of a tilt series' images.

    Raises
    ------
    FormatError
        Movie, angle or dose is missing, or there is no tilt.
    """
    file = star.read(path)
    table = next((table for table in file if is_tomostar(table)), file.tables[0])
    movies = table.text(_MOVIE)
    tilt, dose = table.numbers(_TILT), table.numbers(_DOSE)
    n = len(table)
    if not n:
        raise FormatError(path, expected="at least one tilt", found="none", remedy="import the tilt series again")
    offsets = [table.numbers(label) if label in table else np.zeros(n) for label in _OFFSETS]
    used = {_MOVIE, _TILT, _DOSE, _AXIS, *_OFFSETS}
    return Tomostar(
        movie_names=tuple(movies.tolist()),
        tilt_angle_degrees=tilt,
        axis_angle_degrees=table.numbers(_AXIS) if _AXIS in table else np.zeros(n),
        dose_e_per_angstrom2=dose,
        axis_offset_angstrom=np.stack(offsets, axis=-1),
        further={label: table.text(label) for label in table.labels if label not in used},
    )


def write_tomostar(path: str | Path, tilts: Tomostar) -> None:
    """Write the list of a tilt series' images; offsets of the axis only where there are some."""
    columns = {
        _MOVIE: np.array(tilts.movie_names, dtype=object),
        _TILT: _texts(tilts.tilt_angle_degrees),
        _AXIS: _texts(tilts.axis_angle_degrees),
        _DOSE: _texts(tilts.dose_e_per_angstrom2),
    }
    if tilts.axis_offset_angstrom.any():
        columns |= {label: _texts(tilts.axis_offset_angstrom[:, axis]) for axis, label in enumerate(_OFFSETS)}
    star.write(path, [star.StarTable(name="", columns=columns | tilts.further)])


def average_path(tomostar: str | Path, movie_name: str) -> Path:
    """Return where the motion-corrected image of a tilt is: ``average/<movie>.mrc`` beside its movie's metadata."""
    movie = _movie(tomostar, movie_name)
    return movie.parent / "average" / f"{movie.stem}.mrc"


def raw_movie_path(tomostar: str | Path, movie_name: str) -> Path:
    """Return where the raw movie of a tilt is, whose beginning is hashed.

    Raises
    ------
    FormatError
        It is neither where the file says nor where the movie's own metadata say.
    """
    movie = _movie(tomostar, movie_name)
    tried = [movie]
    metadata = movie.with_suffix(".xml")
    if metadata.exists():
        folder = warp_xml.read(metadata).root.attributes.get("DataDirectory", "")
        tried.append(movie.parent / folder.replace("\\", "/") / movie.name)
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise FormatError(
            tomostar,
            expected=f"the movie {movie_name}",
            found=f"none as {' or '.join(map(str, tried))}",
            remedy="put it there, or mend _wrpMovieName",
        )
    return found


def _movie(tomostar: str | Path, movie_name: str) -> Path:
    return Path(tomostar).parent / PurePosixPath(movie_name.replace("\\", "/"))


def _texts(values: NDArray[np.float64]) -> NDArray[np.object_]:
    return np.array([warp_xml.text_of_number(float(value)) for value in values], dtype=object)
