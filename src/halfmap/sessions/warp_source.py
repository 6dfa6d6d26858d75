"""`WarpSource`: what Warp 1, Warp 2 and WarpTools write, looked at while they do."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfmap.errors import FormatError, HalfmapError
from halfmap.io import relion, star, warp_xml
from halfmap.sessions import stacks
from halfmap.sessions.observation import Micrograph, Observation, Signature, SourceKind, SourceSettings
from halfmap.sessions.warp_settings import check_exported, settings_of

PREVIOUS = "previous.settings"
PROCESSED = "processed_items.json"
FAILED = "failed_items.json"

_ALL_AGAIN = 10  # every so many looks, stacks that are taken are looked at too
_TABLE_PREFIX = "allparticles_"
_LEFT_OUT = (4, 5)  # ProcessingStatus: filtered out, left out


def settings_files(folder: Path) -> list[Path]:
    """Return the settings files of a folder other than that of the desktop program, the newest last."""
    found = [path for path in folder.glob("*.settings") if path.name != PREVIOUS]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


class WarpSource:
    """A processing folder of Warp 1, Warp 2 or WarpTools.

    Parameters
    ----------
    folder : with the settings and tables.
    kind : ``warp1``, ``warp2`` or ``warptools``.
    """

    def __init__(self, folder: Path, kind: SourceKind) -> None:
        self.folder = self.micrographs_folder = folder
        self.kind = kind

    def settings(self) -> SourceSettings:
        """Read the settings; see `halfmap.sessions.watching.Source`."""
        path = self._settings_path()
        if path is None:
            return SourceSettings()
        _, found = settings_of(path)
        if self.kind != "warptools":
            check_exported(path, found)
        return found

    def poll(self, previous: Observation) -> Observation:
        """Look again; see `halfmap.sessions.watching.Source`."""
        memory: dict[str, Any] = dict(previous.remembered)
        settings, notices = self._settings(previous, memory)
        rows, changed = self._rows(settings, memory, notices)
        micrographs = self._micrographs(previous, memory)
        number = previous.number + 1
        found = replace(previous, number=number, settings=settings, micrographs=micrographs, remembered=memory)
        if rows is not None:
            look = stacks.looked_at(
                self.folder,
                rows,
                previous.stacks,
                memory.get("keys", {}),
                memory.get("seen", {}),
                previous.waiting,
                exact=self.kind != "warptools",
                diameter_angstrom=settings.number("diameter_angstrom", 0.0),
                again=changed or number % _ALL_AGAIN == 0,
            )
            memory |= {"keys": look.keys, "seen": look.seen}
            notices += look.notices
            found = replace(found, stacks=look.stacks, waiting=look.waiting)
        return replace(found, notices=tuple(notices))

    def _settings_path(self) -> Path | None:
        if self.kind != "warptools":
            return self.folder / PREVIOUS
        files = settings_files(self.folder)
        return files[-1] if files else None

    def _settings(self, previous: Observation, memory: dict[str, Any]) -> tuple[SourceSettings, list[str]]:
        """Read the settings where they changed; a file that is missing or half written is read next time."""
        path = self._settings_path()
        try:
            signature = None if path is None else stacks.signature_of(path)
            if signature == memory.get("settings"):
                return previous.settings, []
            found = self.settings()
        except (HalfmapError, OSError) as error:
            notice = f"The settings cannot be read now: {error}"
            told = memory.get("settings notice") == notice
            memory["settings notice"] = notice
            return previous.settings, [] if told else [notice]
        memory["settings"] = signature
        return found, []

    def _table_path(self, settings: SourceSettings) -> Path | None:
        """Return the table that holds all particles of the network in use; None where it is absent for now."""
        net = settings.text("net_name")
        names = [f"{_TABLE_PREFIX}{net}.star", f"{_TABLE_PREFIX}{Path(net).stem}.star"] if net else []
        found = [self.folder / name for name in names if (self.folder / name).is_file()]
        if not found and self.kind == "warptools":
            found = [path for path in self.folder.glob("*.star") if _names_images(path)]
            found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        if not found and not net:
            found = sorted(path for path in self.folder.glob(f"{_TABLE_PREFIX}*.star") if "_last" not in path.name)
        return found[0] if found else None

    def _rows(
        self, settings: SourceSettings, memory: dict[str, Any], notices: list[str]
    ) -> tuple[Mapping[str, stacks.TableRows] | None, bool]:
        """Return the rows of the table, as last read where it is absent or half written, and whether they are new."""
        path = self._table_path(settings)
        before: Mapping[str, stacks.TableRows] | None = memory.get("rows")
        try:
            if path is None:
                return before, False
            key = (str(path), stacks.signature_of(path))
            if key == memory.get("table"):
                return before, False
            rows = stacks.rows_by_stack(relion.read_particles(path))
            if (str(path), stacks.signature_of(path)) != key:
                return before, False
        except (HalfmapError, OSError):
            memory["unread looks"] = memory.get("unread looks", 0) + 1
            if memory["unread looks"] == stacks.PATIENCE:
                notices.append(f"The table {path and path.name} cannot be read; it is tried again at each look.")
            return before, False
        memory |= {"table": key, "rows": rows, "unread looks": 0}
        return rows, True

    def _micrographs(self, previous: Observation, memory: dict[str, Any]) -> Mapping[str, Micrograph]:
        if (self.folder / PROCESSED).is_file():
            return _of_items(self.folder, previous, memory)
        signatures: dict[str, Signature] = dict(memory.get("xml", {}))
        found = dict(previous.micrographs)
        for path in self.folder.glob("*.xml"):
            try:
                signature = stacks.signature_of(path)
                if signatures.get(path.name) == signature:
                    continue
                row = _of_xml(path, signature[0] * 1e-9)
            except (HalfmapError, OSError):
                continue  # rewritten in place: whole at a later look
            signatures[path.name] = signature
            if row is not None:
                found[row.name] = row
        memory["xml"] = signatures
        picks: dict[str, int] = {}
        for rows in memory.get("rows", {}).values():
            name = Path(str(rows.particles["micrograph_name"][0])).stem
            picks[name] = picks.get(name, 0) + len(rows.section)
        return {
            name: one if one.picks == picks.get(name, -1) else replace(one, picks=picks.get(name, -1))
            for name, one in found.items()
        }


def _of_xml(path: Path, time_s: float) -> Micrograph | None:
    """Return a micrograph from its XML; None for tilt series."""
    document = warp_xml.read(path)
    root = document.root
    if root.name != "Movie":
        return None
    section = root.first("CTF")
    ctf = {} if section is None else section.params

    def number(text: str | None) -> float:
        return warp_xml.number(text, "a number", document) if text else math.nan

    manual = root.attributes.get("UnselectManual", "null").lower()
    filtered = root.attributes.get("UnselectFilter", "False").lower() == "true"
    unselected = manual == "true" if manual in ("true", "false") else filtered
    return Micrograph(
        name=path.stem,
        time_s=time_s,
        defocus_angstrom=1e4 * number(ctf.get("Defocus")),
        resolution_angstrom=number(root.attributes.get("CTFResolutionEstimate")),
        motion_angstrom=number(root.attributes.get("MeanFrameMovement")),
        accepted=not unselected,
    )


def _of_items(folder: Path, previous: Observation, memory: dict[str, Any]) -> Mapping[str, Micrograph]:
    """Return micrographs from WarpTools' list of processed items."""
    path = folder / PROCESSED
    try:
        signature = stacks.signature_of(path)
        if memory.get("items") == signature:
            return previous.micrographs
        items = json.loads(path.read_bytes())
        found = {}
        for item in items:
            name = Path(str(item["Path"]).replace("\\", "/")).stem
            old = previous.micrographs.get(name)
            found[name] = Micrograph(
                name=name,
                time_s=old.time_s if old is not None else _time_of(folder / f"{name}.xml", signature),
                defocus_angstrom=1e4 * _number(item.get("Defocus")),
                resolution_angstrom=_number(item.get("Resolution")),
                motion_angstrom=_number(item.get("Motion")),
                picks=int(item["Particles"]) if item.get("Particles") is not None else -1,
                accepted=item.get("ProcessingStatus") not in _LEFT_OUT,
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return previous.micrographs
    memory["items"] = signature
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _time_of(path: Path, otherwise: Signature) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return otherwise[0] * 1e-9


def _names_images(path: Path) -> bool:
    """Tell whether a table of WarpTools holds exported particles."""
    try:
        file = star.read(path)
    except FormatError:
        return False
    return any("rlnImageName" in table for table in file)
