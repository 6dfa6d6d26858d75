"""What a refinement fitted, in the words in which M keeps it in the ``.population``: `LastRefinementOptions`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halfmap.jobs.population_refine import RefinePopulationParams

_SIDES = ("Width", "Height", "Depth", "Length")


def options_of_m(params: "RefinePopulationParams") -> dict[str, str]:
    """Return M's options for the next refinement: those of this one; what M alone has is left out."""
    flags = {
        "DoImageWarp": params.image_warp is not None,
        "DoVolumeWarp": params.volume_warp is not None,
        "DoAxisAngles": params.stage_angles,
        "DoParticlePoses": params.positions or params.angles,
        "DoMagnification": params.magnification,
        "DoZernike13": params.odd_zernike_order > 0,
        "DoZernike5": params.odd_zernike_order == 5,
        "DoTiltMovies": params.tilt_movies,
        "DoDefocus": params.defocus,
        "DoAstigmatismDelta": params.astigmatism,
        "DoAstigmatismAngle": params.astigmatism,
        "DoPhaseShift": params.phase_shift,
        "DoCs": params.spherical_aberration,
        "DoDoming": params.doming,
        "DoZernike2": params.even_zernike_order > 0,
        "DoZernike4": params.even_zernike_order == 4,
        "DoDefocusGridSearch": params.search_defocus_angstrom > 0,
    }
    numbers = {
        "NIterations": params.sub_iterations,
        "InitialResolutionPercent": round(100 * params.first_fraction),
        "MinParticlesPerItem": params.min_particles,
        "MinimumCTFRefinementResolution": params.ctf_resolution_angstrom,
        **dict(zip(("ImageWarpWidth", "ImageWarpHeight"), params.image_warp_nodes or (), strict=False)),
        **dict(zip((f"VolumeWarp{side}" for side in _SIDES), params.volume_warp_nodes or (), strict=False)),
    }
    return {name: str(value) for name, value in flags.items()} | {name: f"{value:g}" for name, value in numbers.items()}
