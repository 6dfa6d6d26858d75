"""How large images and tomogram of a series are, and how many frames of what dose: files of Warp may not say it."""

from dataclasses import dataclass

from halfmap.io import warp_xml
from halfmap.io.warp_xml import XmlDocument


@dataclass(frozen=True, kw_only=True)
class SeriesSizes:
    """What the metadata of a series may not say, and the settings or the images do.

    Parameters
    ----------
    image_size_angstrom : (x, y) of the images.
    volume_size_angstrom : (x, y, z) of the tomogram.
    n_frames : of a frame series.
    dose_per_frame_e_per_angstrom2 : of a frame series.
    """

    image_size_angstrom: tuple[float, float] | None = None
    volume_size_angstrom: tuple[float, float, float] | None = None
    n_frames: int | None = None
    dose_per_frame_e_per_angstrom2: float | None = None


def image_size(document: XmlDocument, sizes: SeriesSizes) -> tuple[float, float]:
    """Return (x, y) of the images in Å."""
    stated = _dimensions(document, "ImageDimensionsAngstrom")
    size = stated or _option_dimensions(document)[:2] or sizes.image_size_angstrom or ()
    if len(size) != 2 or min(size) <= 0:
        raise document.error(
            "the size of the images (ImageDimensionsAngstrom)",
            "none",
            "state them in the .settings file (DimensionsX and DimensionsY in <Tomo>), or process the item again",
        )
    return float(size[0]), float(size[1])


def volume_size(document: XmlDocument, sizes: SeriesSizes) -> tuple[float, float, float]:
    """Return (x, y, z) of the tomogram in Å."""
    size = _dimensions(document, "VolumeDimensionsAngstrom") or sizes.volume_size_angstrom or ()
    if len(size) != 3 or min(size) <= 0:
        raise document.error(
            "the size of the tomogram (VolumeDimensionsAngstrom), which this version of Warp did not write",
            "none",
            "state it in the .settings file (create_settings --tomo_dimensions of WarpTools, in unbinned pixels)",
        )
    return float(size[0]), float(size[1]), float(size[2])


def _dimensions(document: XmlDocument, name: str) -> tuple[float, ...]:
    values = tuple(warp_xml.numbers(document.root.attributes.get(name, ""), name, document))
    return values if values and min(values) > 0 else ()


def _option_dimensions(document: XmlDocument) -> tuple[float, ...]:
    """Return (x, y) in Å and the number of images, from the options that an item was processed with."""
    for section in ("OptionsMovement", "OptionsCTF"):
        text = params_of(document, section).get("Dimensions", "")
        values = tuple(warp_xml.numbers(text, f"Dimensions of {section}", document))
        if len(values) == 3 and min(values[:2]) > 0:
            return values
    return ()


def n_frames(document: XmlDocument, sizes: SeriesSizes) -> int:
    """Return the number of frames of a movie."""
    if sizes.n_frames:
        return sizes.n_frames
    stated = _option_dimensions(document)
    if stated and stated[2] >= 1:
        return round(stated[2])
    for name in ("GridDoseBfacs", "GridCTFDoming"):
        element = document.root.first(name)
        text = "1" if element is None else element.attributes.get("Depth", "1")
        if (depth := round(warp_xml.number(text, f"Depth of {name}", document))) > 1:
            return depth
    raise document.error(
        "the number of frames (Dimensions in <OptionsMovement>)", "none", "keep the movie where the data source says"
    )


def dose_of_frame(document: XmlDocument, sizes: SeriesSizes, n: int) -> float:
    """Return e/Å² per frame of a movie of n frames; 0 where nobody says it."""
    if sizes.dose_per_frame_e_per_angstrom2 is not None:
        return sizes.dose_per_frame_e_per_angstrom2
    for section in ("OptionsMovement", "OptionsCTF"):
        text = params_of(document, section).get("DosePerAngstromFrame", "")
        if text:
            return dose_per_frame(warp_xml.number(text, f"DosePerAngstromFrame of {section}", document), n)
    return 0.0


def dose_per_frame(stored: float, n_frames: int) -> float:
    """Return e/Å² per frame: Warp's files hold it, or the negated exposure of the whole movie."""
    return stored if stored >= 0 else -stored / n_frames


def params_of(document: XmlDocument, section: str) -> dict[str, str]:
    """Return the params of an element below the root; none of no element."""
    element = document.root.first(section)
    return element.params if element is not None else {}
