"""The settings of a Warp project, ``.settings``: where its data are and what they were recorded with."""

from dataclasses import dataclass
from pathlib import Path

from halfmap.io import warp_xml
from halfmap.io.warp_params import Params, put, set_params
from halfmap.io.warp_xml import XmlDocument

_ROOT = "Settings"


@dataclass(frozen=True, kw_only=True, eq=False)
class WarpSettings:
    """What the settings of a Warp project say.

    Parameters
    ----------
    data_folder, processing_folder : of the raw data or tomostar files, and of metadata; relative to the file. No
        processing folder means the data folder.
    extension : of the data, ``*.tif`` or ``*.tomostar``.
    pixel_size_angstrom : of the raw data.
    bin_times : log2 of the factor by which images are reduced.
    dose_per_frame_e_per_angstrom2, exposure_e_per_angstrom2 : of a frame or a whole movie; None where not stated.
    eer_group_frames : raw frames of an EER file that make one frame; negative, the number of frames to make.
    gain_path, defects_path, gain_flip_x, gain_flip_y, gain_transpose : of the detector.
    tomo_dimensions_pixel : (x, y, z) of tomograms in pixels of the raw data.
    voltage_kv, spherical_aberration_mm, chromatic_aberration_mm, amplitude_contrast : of the CTF.
    """

    pixel_size_angstrom: float
    data_folder: str = ""
    processing_folder: str = ""
    extension: str = "*.tomostar"
    bin_times: float = 0.0
    dose_per_frame_e_per_angstrom2: float | None = None
    exposure_e_per_angstrom2: float | None = None
    eer_group_frames: int = 10
    gain_path: str = ""
    defects_path: str = ""
    gain_flip_x: bool = False
    gain_flip_y: bool = False
    gain_transpose: bool = False
    tomo_dimensions_pixel: tuple[float, float, float] = (0.0, 0.0, 0.0)
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    chromatic_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07

    def processing_path(self, settings: str | Path) -> Path:
        """Return the folder of the metadata, given where the settings are."""
        return _path(settings, self.processing_folder or self.data_folder)

    def data_path(self, settings: str | Path) -> Path:
        """Return the folder of the data, given where the settings are."""
        return _path(settings, self.data_folder)


def read_settings(path: str | Path) -> WarpSettings:
    """Read the settings of Warp or WarpTools, any version.

    Raises
    ------
    FormatError
        It cannot be read, is something else, or states no pixel size.

    Notes
    -----
    A negative dose per frame is the negated exposure of a movie, and 0 says nothing.
    """
    document = warp_xml.read(path)
    if document.root.name != _ROOT:
        raise document.error(f"settings of Warp (<{_ROOT}>)", f"<{document.root.name}>", "choose a .settings file")
    # before 1.1 the pixel size and the folder stood elsewhere
    params = Params(document, document.root.params | _section(document, "Import"))
    old_pixel_size = params.number("PixelSizeX", 0.0)
    pixel_size = params.number("PixelSize", old_pixel_size)
    if pixel_size <= 0:
        raise document.error("a PixelSize in <Import>", "none", "make the settings again with --angpix")
    tomo, ctf = Params(document, _section(document, "Tomo")), Params(document, _section(document, "CTF"))
    dose = params.number("DosePerAngstromFrame", 0.0)
    old_folder = params.text("Folder", "")
    return WarpSettings(
        data_folder=params.text("DataFolder", old_folder),
        processing_folder=params.text("ProcessingFolder", ""),
        extension=params.text("Extension", ""),
        pixel_size_angstrom=pixel_size,
        bin_times=params.number("BinTimes", 0.0),
        dose_per_frame_e_per_angstrom2=dose if dose > 0 else None,
        exposure_e_per_angstrom2=-dose if dose < 0 else None,
        eer_group_frames=params.whole("EERGroupFrames", 10),
        gain_path=params.text("GainPath", ""),
        defects_path=params.text("DefectsPath", ""),
        gain_flip_x=params.flag("GainFlipX", False),
        gain_flip_y=params.flag("GainFlipY", False),
        gain_transpose=params.flag("GainTranspose", False),
        tomo_dimensions_pixel=(
            tomo.number("DimensionsX", 0.0),
            tomo.number("DimensionsY", 0.0),
            tomo.number("DimensionsZ", 0.0),
        ),
        voltage_kv=ctf.number("Voltage", 300.0),
        spherical_aberration_mm=ctf.number("Cs", 2.7),
        chromatic_aberration_mm=ctf.number("Cc", 2.7),
        amplitude_contrast=ctf.number("Amplitude", 0.07),
    )


def write_settings(path: str | Path, settings: WarpSettings) -> None:
    """Write new settings, as WarpTools reads them."""
    number, flag = warp_xml.text_of_number, warp_xml.text_of_flag
    dose = settings.dose_per_frame_e_per_angstrom2 or 0.0
    if settings.exposure_e_per_angstrom2 is not None:
        dose = -settings.exposure_e_per_angstrom2
    document = XmlDocument.new(_ROOT, path)
    set_params(document, {"ProcessCTF": "False", "ProcessMovement": "False", "ProcessPicking": "False"})
    sections = {
        "Import": {
            "DataFolder": settings.data_folder,
            "ProcessingFolder": settings.processing_folder,
            "Extension": settings.extension,
            "PixelSize": number(settings.pixel_size_angstrom),
            "BinTimes": number(settings.bin_times),
            "GainPath": settings.gain_path,
            "DefectsPath": settings.defects_path,
            "GainFlipX": flag(settings.gain_flip_x),
            "GainFlipY": flag(settings.gain_flip_y),
            "GainTranspose": flag(settings.gain_transpose),
            "CorrectGain": flag(bool(settings.gain_path)),
            "CorrectDefects": flag(bool(settings.defects_path)),
            "DosePerAngstromFrame": number(dose),
            "EERGroupFrames": str(settings.eer_group_frames),
        },
        "CTF": {
            "Voltage": number(settings.voltage_kv),
            "Cs": number(settings.spherical_aberration_mm),
            "Cc": number(settings.chromatic_aberration_mm),
            "Amplitude": number(settings.amplitude_contrast),
        },
        "Tomo": {
            f"Dimensions{axis}": number(side) for axis, side in zip("XYZ", settings.tomo_dimensions_pixel, strict=True)
        },
    }
    for name, params in sections.items():
        put(document, name, warp_xml.text_of_params(name, params))
    document.write(path)


def _section(document: XmlDocument, name: str) -> dict[str, str]:
    element = document.root.first(name)
    return {} if element is None else element.params


def _path(settings: str | Path, folder: str) -> Path:
    return Path(settings).parent / folder.replace("\\", "/")
