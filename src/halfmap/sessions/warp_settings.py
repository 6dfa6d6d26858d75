"""The settings of Warp that a session takes over, and where each was found."""

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

from halfmap.errors import InputError
from halfmap.io import warp_xml
from halfmap.sessions.observation import Setting, SourceKind, SourceSettings

_LARGEST = 1e5
_MOST_BINNING = 10.0


def settings_of(path: Path) -> tuple[SourceKind, SourceSettings]:
    """Read a settings file of Warp 1, Warp 2 or WarpTools.

    Returns
    -------
    kind : ``warp1``, where the pixel size stands outside all sections, else ``warp2``.
    settings : what was found.

    Raises
    ------
    FormatError
        It is no settings file, or states no pixel size.

    Notes
    -----
    Warp 1 has PixelSizeX and PixelSizeY, whose mean counts; Warp 2 has PixelSize in the section Import. Images are
    reduced by 2^BinTimes.
    """
    document = warp_xml.read(path)
    root = document.root
    if root.name != "Settings":
        raise document.error("settings of Warp (<Settings>)", f"<{root.name}>", "choose a .settings file")
    sections = {name: _params(root, name) for name in ("Import", "Picking")}
    imported, picking = sections["Import"], sections["Picking"]

    def number(text: str, name: str) -> float:
        value = warp_xml.number(text, name, document)
        if abs(value) > _LARGEST:
            raise document.error(f"a number of ordinary size as {name}", text, "save the settings again in Warp")
        return value

    kind: SourceKind = "warp2"
    if "PixelSize" in imported:
        raw, entry = number(imported["PixelSize"], "PixelSize"), "Import/PixelSize"
    elif "PixelSizeX" in root.params:
        kind, entry = "warp1", "PixelSizeX, PixelSizeY"
        raw = number(root.params["PixelSizeX"], "PixelSizeX")
        raw = 0.5 * (raw + number(root.params.get("PixelSizeY", root.params["PixelSizeX"]), "PixelSizeY"))
    else:
        raise document.error("PixelSize in <Import>, or PixelSizeX", "neither", "save the settings again in Warp")
    if raw <= 0:
        raise document.error(f"a positive pixel size in {entry}", f"{raw:g}", "save the settings again in Warp")
    bin_times = number(imported.get("BinTimes", "0"), "BinTimes")
    if abs(bin_times) > _MOST_BINNING:
        raise document.error("a BinTimes of ordinary size", f"{bin_times:g}", "save the settings again in Warp")
    values = {
        "pixel_size_angstrom": Setting(
            value=raw * 2**bin_times, unit="Å", provenance=f"{path.name}: {entry} · 2^Import/BinTimes"
        )
    }
    for name, key, unit in (
        ("diameter_angstrom", "Diameter", "Å"),
        ("box_pixel", "BoxSize", "px"),
        ("score_threshold", "MinimumScore", ""),
    ):
        if picking.get(key):
            where = f"{path.name}: Picking/{key}"
            values[name] = Setting(value=number(picking[key], key), unit=unit, provenance=where)
    for name, key in (("exports_particles", "DoExport"), ("particles_are_bright", "Invert")):
        if picking.get(key):
            values[name] = Setting(value=warp_xml.flag(picking[key]), provenance=f"{path.name}: Picking/{key}")
    if picking.get("ModelPath"):
        net = PureWindowsPath(picking["ModelPath"].rstrip("/\\")).name
        values["net_name"] = Setting(value=net, provenance=f"{path.name}: Picking/ModelPath")
    return kind, SourceSettings(values=values)


def check_exported(path: Path, settings: SourceSettings) -> None:
    """Raise `InputError` where Warp does not export the particles it picks."""
    if not settings.flag("exports_particles", True):
        raise InputError(
            f"{path} must say that particles are exported; got Picking/DoExport = False; tick the box 'Export "
            "particles' of Warp's picking settings."
        )


def _params(root: warp_xml.XmlElement, name: str) -> Mapping[str, str]:
    element = root.first(name)
    return {} if element is None else element.params
