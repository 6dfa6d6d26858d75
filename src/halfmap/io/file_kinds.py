"""What kind of file somebody has, told by its content and not by its name."""

from enum import Enum
from pathlib import Path

from halfmap.errors import FormatError
from halfmap.io import cistem, cryosparc, eman, leopard, relion_tomo, star, tomostar, topaz, warp, warp_xml
from halfmap.io.relion_tomo_particles import is_optimisation_set, read_optimisation_set
from halfmap.io.text_rows import read_rows

_LOOKED_AT = 4096
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe<\0", b"\xfe\xff\0<")

_ADD_SOURCE = "make items a source with `halfmap population add-source POPULATION SETTINGS`"
_OF_XML = {
    "TiltSeries": ("metadata of a tilt series of Warp or M", _ADD_SOURCE),
    "Movie": ("metadata of a movie of Warp or M", _ADD_SOURCE),
    "Settings": ("settings of a Warp project", _ADD_SOURCE),
    "Population": ("a population of M", "give it to the commands `halfmap population …`"),
    "DataSource": ("a data source of M", "add it with `halfmap population add-source POPULATION SOURCE`"),
    "Species": ("a species of M", "import its …_particles.star, or give its population to `halfmap population …`"),
}
"What XML of Warp and M is by its root, and what it is for: nothing of it needs an import."


class FileKind(Enum):
    """Kinds of files that can be imported; the value says it to people."""

    CRYOSPARC = "cryoSPARC metadata"
    RELION_PARTICLES = "RELION particles"
    RELION_MICROGRAPHS = "RELION micrographs"
    RELION_PICKS = "RELION list of coordinate files"
    RELION_COORDINATES = "RELION coordinates"
    WARP_PARTICLES = "particles of a species of M"
    CISTEM_PARTICLES = "cisTEM particles"
    LEOPARD = "Leopard-EM particles"
    TOPAZ = "Topaz coordinates"
    EMAN_BOXES = "EMAN boxes"
    TEXT_COORDINATES = "coordinates as plain text"


def kind_of_file(path: str | Path) -> FileKind:
    """Recognise a file by its content.

    Parameters
    ----------
    path : the file; its ending does not count.

    Raises
    ------
    FormatError
        It cannot be read, or is nothing of what can be imported.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            beginning = stream.read(_LOOKED_AT)
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=f"'{error.strerror}'") from error
    if beginning.startswith((cryosparc.NUMPY_MAGIC, cryosparc.STREAM_MAGIC)):
        return FileKind.CRYOSPARC
    if beginning.removeprefix(_UTF8_MARK).lstrip().startswith(b"<") or beginning.startswith(_UTF16_MARKS):
        root = warp_xml.read(path).root.name
        raise _unknown(path, *_OF_XML.get(root, (f"XML with <{root}>", "")))
    # Some writers of STAR files put single NUL bytes on empty lines, so one alone means nothing.
    if beginning.count(b"\0") > len(beginning) // 20:
        is_mrc = beginning[208:212] == b"MAP "
        raise _unknown(
            path,
            "an MRC file" if is_mrc else "a binary file",
            "name images in a STAR file; an MRC file needs no import" if is_mrc else "",
        )
    lines = [line.strip() for line in beginning.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise _unknown(path, "an empty file")
    if any(line.lower().startswith("data_") for line in lines[:3]):
        return _kind_of_star(path)
    if leopard.is_header(lines[0]):
        return FileKind.LEOPARD
    if topaz.is_header(lines[0]):
        return FileKind.TOPAZ
    try:
        rows = read_rows(path, at_least=2)
    except FormatError:
        rows = []
    if not rows:
        raise _unknown(path, f"text that begins with {lines[0][:60]!r}")
    return FileKind.EMAN_BOXES if eman.is_boxes(rows) else FileKind.TEXT_COORDINATES


def _kind_of_star(path: Path) -> FileKind:
    file = star.read(path)
    if any(cistem.is_particle_table(table) for table in file):
        return FileKind.CISTEM_PARTICLES
    if any(warp.is_species_table(table) for table in file):
        return FileKind.WARP_PARTICLES
    _refuse_tomography(file, path)
    if "coordinate_files" in file:
        return FileKind.RELION_PICKS
    if any("rlnImageName" in table for table in file) or any(name in ("particles", "images") for name in file.names):
        return FileKind.RELION_PARTICLES
    if any("rlnCoordinateX" in table or "CoordinateX" in table for table in file):
        return FileKind.RELION_COORDINATES
    if any("rlnMicrographName" in table for table in file):
        return FileKind.RELION_MICROGRAPHS
    labels = [f"_{label}" for table in file for label in table.labels]
    raise _unknown(path, f"a STAR file with {', '.join(labels[:8]) or 'no columns'}")


def _refuse_tomography(file: star.StarFile, path: Path) -> None:
    """Refuse files of tilt series, saying what they are for."""
    if relion_tomo.is_tomograms(file):
        raise _unknown(path, "tilt series of RELION", "add them with `halfmap population add-source POPULATION FILE`")
    if any(relion_tomo.is_tilt_series(table) for table in file):
        raise _unknown(path, "the tilts of one series of RELION", "choose the tomograms.star that names it")
    if any(tomostar.is_tomostar(table) for table in file):
        raise _unknown(path, "the list of a tilt series' images of Warp", _ADD_SOURCE)
    if any(is_optimisation_set(table) for table in file):
        particles, tomograms = read_optimisation_set(path)
        raise _unknown(path, "an optimisation set of RELION", f"give {tomograms} and {particles}, which it names")


def _unknown(path: Path, found: str, remedy: str = "") -> FormatError:
    return FormatError(
        path,
        expected=f"a file of one of these kinds: {', '.join(kind.value for kind in FileKind)}",
        found=found,
        remedy=remedy or "choose another file",
    )
