"""The files in which post-processing leaves its numbers: RELION's STAR file and the EMDB's FSC file."""

import math
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from torch import Tensor

from halfmap.fourier import shells
from halfmap.io import star
from halfmap.io.atomic import write_text
from halfmap.postprocessing.half_map_fsc import HalfMapFsc
from halfmap.postprocessing.postprocess import PostprocessResult

_VERSION = 50001
_NONE = 999.0  # RELION's resolution of what has none
_NO_AMPLITUDE = -99.0


def write_postprocess_star(path: Path, result: PostprocessResult, names: Mapping[str, str]) -> None:
    """Write RELION 5's three tables: general, fsc and guinier.

    Parameters
    ----------
    names : label → file name as it is written, of the half maps, maps and mask; an empty one is left out.

    Notes
    -----
    ``rlnFinalResolution`` is interpolated between shells, where RELION gives the last shell before the crossing; that
    one is ``halfmapFinalResolutionShell``, which RELION passes over. ``rlnCorrelationFitGuinierPlot`` is the square of
    the correlation coefficient, as in RELION.
    """
    fsc, guinier = result.fsc, result.guinier
    last_angstrom = max(fsc.grid.shape) * fsc.grid.pixel_size_angstrom / fsc.last_shell if fsc.last_shell > 0 else _NONE
    general: dict[str, str] = {
        "rlnFinalResolution": _number(_finite(fsc.resolution_angstrom)),
        "halfmapFinalResolutionShell": _number(last_angstrom),
        "rlnBfactorUsedForSharpening": _number(result.b_factor_angstrom2),
        "rlnParticleBoxFractionSolventMask": _number(fsc.box_over_particle),
        **{label: name for label, name in names.items() if name},
    }
    if fsc.randomise_from_angstrom is not None:
        general["rlnRandomiseFrom"] = _number(fsc.randomise_from_angstrom)
    if math.isfinite(guinier.slope_angstrom2):
        general |= {
            "rlnFittedSlopeGuinierPlot": _number(guinier.slope_angstrom2),
            "rlnFittedInterceptGuinierPlot": _number(guinier.intercept),
            "rlnCorrelationFitGuinierPlot": _number(guinier.correlation**2),
        }
    frequencies = shells.shell_frequencies(fsc.grid)
    curves = {
        "rlnFourierShellCorrelationCorrected": fsc.corrected,
        "rlnFourierShellCorrelationParticleMaskFraction": fsc.particle,
        "rlnFourierShellCorrelationUnmaskedMaps": fsc.unmasked,
        "rlnFourierShellCorrelationMaskedMaps": fsc.masked,
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": fsc.randomised,
    }
    fsc_columns = {
        "rlnSpectralIndex": _texts([str(number) for number in range(len(frequencies))]),
        "rlnResolution": _column(frequencies),
        "rlnAngstromResolution": _texts([_number(1 / f if f else _NONE) for f in frequencies.tolist()]),
        **{label: _column(curve) for label, curve in curves.items()},
    }
    is_mtf_corrected = not bool(torch.equal(guinier.mtf_corrected.nan_to_num(), guinier.original.nan_to_num()))
    stages = {
        "rlnLogAmplitudesOriginal": guinier.original,
        **({"rlnLogAmplitudesMTFCorrected": guinier.mtf_corrected} if is_mtf_corrected else {}),
        "rlnLogAmplitudesWeighted": guinier.weighted,
        "rlnLogAmplitudesSharpened": guinier.sharpened,
    }
    guinier_columns = {
        "rlnResolutionSquared": _texts([f"{value:.9f}" for value in guinier.resolution_squared.tolist()]),
        **{label: _column(stage.nan_to_num(nan=_NO_AMPLITUDE)) for label, stage in stages.items()},
    }
    if math.isfinite(guinier.intercept):
        guinier_columns["rlnLogAmplitudesIntercept"] = _texts([_number(guinier.intercept)] * len(frequencies))
    general_columns = {label: _texts([value]) for label, value in general.items()}
    tables = [
        star.StarTable(name="general", columns=general_columns, is_loop=False),
        star.StarTable(name="fsc", columns=fsc_columns),
        star.StarTable(name="guinier", columns=guinier_columns),
    ]
    star.write(path, [star.with_version(table, _VERSION) for table in tables])


def write_fsc_xml(path: Path, fsc: HalfMapFsc, title: str = "FSC of half maps, corrected for the mask") -> None:
    """Write the corrected FSC as the EMDB takes it."""
    frequencies = shells.shell_frequencies(fsc.grid).tolist()
    lines = [f'<fsc title="{escape(title)}" xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">']
    for frequency, value in zip(frequencies, fsc.corrected.tolist(), strict=True):
        lines += [
            "  <coordinate>",
            f"    <x>{frequency:.6f}</x>",
            f"    <y>{value:.6f}</y>",
            "  </coordinate>",
        ]
    write_text(path, "\n".join([*lines, "</fsc>", ""]))


def _column(values: Tensor) -> np.ndarray:
    return _texts([_number(value) for value in values.tolist()])


def _texts(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=object)


def _number(value: float) -> str:
    return f"{value:.6f}"


def _finite(resolution_angstrom: float) -> float:
    return resolution_angstrom if math.isfinite(resolution_angstrom) else _NONE
