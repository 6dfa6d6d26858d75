"""A series whose grids have the sizes that a refinement asks for."""

from halfmap.data.image_series import FrameSeries, ImageSeries, TiltSeries
from halfmap.multiparticle.params import ParameterChoice
from halfmap.splines.grids import SplineGrid
from halfmap.splines.pyramid import pyramid_shapes

FIELD_NODES = 3
"Along x and y, of what varies over the images of a frame series."

_STAGE = ("stage_angle_x_degrees", "stage_angle_y_degrees", "stage_angle_z_degrees")
_VOLUME_WARP = ("volume_warp_x_angstrom", "volume_warp_y_angstrom", "volume_warp_z_angstrom")
_ASTIGMATISM = ("astigmatism_angstrom", "astigmatism_angle_degrees")


def prepared(series: ImageSeries, choice: ParameterChoice) -> ImageSeries:
    """Return the series with grids of the sizes that a choice asks for.

    Notes
    -----
    Grids are sampled at their new nodes; a pyramid of another size begins at zero, as in M. What a coarser grid cannot
    hold is lost, so positions may change.
    """
    n = len(series)
    fields: dict[str, object] = {}

    def resize(shape: tuple[int, int, int], *names: str) -> None:
        fields.update({name: getattr(series, name).resized(shape) for name in names})

    if isinstance(series, TiltSeries):
        if choice.image_warp_nodes is not None:
            x, y = choice.image_warp_nodes
            resize((n, y, x), "movement_x_angstrom", "movement_y_angstrom")
        if choice.volume_warp_nodes is not None:
            for name in _VOLUME_WARP:
                fields[name] = getattr(series, name).resized(choice.volume_warp_nodes[::-1])
        if choice.stage_angles:
            for name in _STAGE:
                resize((n, *getattr(series, name).shape[1:]), name)
        for is_chosen, names in _tilt_optics(choice):
            if is_chosen:
                resize((n, 1, 1), *names)
    elif isinstance(series, FrameSeries):
        if choice.image_warp_nodes is not None:
            fields.update(_pyramid(series, *choice.image_warp_nodes))
        if choice.doming:
            resize((n, FIELD_NODES, FIELD_NODES), "doming_angstrom", *_STAGE)
        for is_chosen, names in _frame_optics(choice):
            if is_chosen:
                resize((1, FIELD_NODES, FIELD_NODES), *names)
        if choice.phase_shift:
            resize((1, 1, 1), "phase_shift_degrees")
    return series.with_values(**fields) if fields else series


def _tilt_optics(choice: ParameterChoice) -> list[tuple[bool, tuple[str, ...]]]:
    return [
        (choice.defocus, ("defocus_angstrom",)),
        (choice.astigmatism, _ASTIGMATISM),
        (choice.phase_shift, ("phase_shift_degrees",)),
    ]


def _frame_optics(choice: ParameterChoice) -> list[tuple[bool, tuple[str, ...]]]:
    return [
        (choice.astigmatism, _ASTIGMATISM),
        (choice.spherical_aberration, ("spherical_aberration_offset_mm",)),
    ]


def _pyramid(series: FrameSeries, width: int, height: int) -> dict[str, object]:
    if series.pyramid_x_angstrom and series.pyramid_x_angstrom[0].shape[1:] == (height, width):
        return {}
    shapes = pyramid_shapes(width, height, len(series), series.total_dose_e_per_angstrom2)
    zero = tuple(SplineGrid.constant(0.0, shape) for shape in shapes)
    return {"pyramid_x_angstrom": zero, "pyramid_y_angstrom": zero}
