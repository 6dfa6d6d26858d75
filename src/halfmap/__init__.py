"""halfmap: cryo-EM from micrographs to maps.

Every command is a function of the same name: ``halfmap pick log`` is `halfmap.pick_log`. The nouns that functions
on tensors and tables take are here too. A name is imported when it is first used.
"""

import importlib
from typing import Any

from halfmap.jobs.registry import COMMANDS as _COMMANDS
from halfmap.project.job import as_function as _as_function
from halfmap.project.job import function_name as _function_name

_NOUNS: dict[str, str] = {
    "FourierBand": "halfmap.fourier.band:FourierBand",
    "HalfSets": "halfmap.data.half_sets:HalfSets",
    "HalfmapError": "halfmap.errors:HalfmapError",
    "ImageGrid": "halfmap.grid:ImageGrid",
    "ImageSource": "halfmap.data.image_source:ImageSource",
    "JobResult": "halfmap.project.job:JobResult",
    "Length": "halfmap.units:Length",
    "MicrographSet": "halfmap.data.micrographs:MicrographSet",
    "OpticsGroups": "halfmap.data.optics_groups:OpticsGroups",
    "ParticleSet": "halfmap.data.particles:ParticleSet",
    "Picks": "halfmap.data.picks:Picks",
    "RunOptions": "halfmap.project.options:RunOptions",
    "Volume": "halfmap.data.volumes:Volume",
}
_JOBS = {_function_name(entry.command): entry for entry in _COMMANDS}

__all__ = sorted([*_NOUNS, *_JOBS])


def __getattr__(name: str) -> Any:
    if name in _NOUNS:
        module, attribute = _NOUNS[name].split(":")
        value = getattr(importlib.import_module(module), attribute)
    elif name in _JOBS:
        value = _as_function(_JOBS[name].load())
    else:
        raise AttributeError(f"module 'halfmap' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
