"""Which element of the XML of Warp and M holds which field of a series, and in what units."""

TILTS, FRAMES = "TiltSeries", "Movie"
"Names of the root of a tilt series and a frame series."

_MICROMETRE = 1e4
_PI = 180.0

GRIDS = {
    "defocus_angstrom": ("GridCTF", _MICROMETRE),
    "astigmatism_angstrom": ("GridCTFDefocusDelta", _MICROMETRE),
    "astigmatism_angle_degrees": ("GridCTFDefocusAngle", 1.0),
    "phase_shift_degrees": ("GridCTFPhase", _PI),
    "movement_x_angstrom": ("GridMovementX", 1.0),
    "movement_y_angstrom": ("GridMovementY", 1.0),
    "stage_angle_x_degrees": ("GridAngleX", 1.0),
    "stage_angle_y_degrees": ("GridAngleY", 1.0),
    "stage_angle_z_degrees": ("GridAngleZ", 1.0),
}
"Grids of both kinds of series: field → name in the file, and how much of our unit is one of theirs."

FRAME_GRIDS = {
    "local_movement_x_angstrom": ("GridLocalMovementX", 1.0),
    "local_movement_y_angstrom": ("GridLocalMovementY", 1.0),
    "doming_angstrom": ("GridCTFDoming", _MICROMETRE),
    "spherical_aberration_offset_mm": ("GridCTFCs", 1.0),
}
PYRAMIDS = {"pyramid_x_angstrom": "PyramidShiftX", "pyramid_y_angstrom": "PyramidShiftY"}
WARPS = {f"volume_warp_{axis}_angstrom": f"GridVolumeWarp{axis.upper()}" for axis in "xyz"}
WEIGHT_GRIDS = {
    "scale": "GridDoseWeights",
    "b_factor_angstrom2": "GridDoseBfacs",
    "b_factor_difference_angstrom2": "GridDoseBfacsDelta",
    "b_factor_angle_degrees": "GridDoseBfacsAngle",
    "scale_of_place": "GridLocationWeights",
    "b_factor_of_place_angstrom2": "GridLocationBfacs",
}
OPTICS = {
    "pixel_size_angstrom": "PixelSize",
    "voltage_kv": "Voltage",
    "spherical_aberration_mm": "Cs",
    "chromatic_aberration_mm": "Cc",
    "amplitude_contrast": "Amplitude",
}
ZERNIKE = {"odd_zernike": ("ZernikeCoeffsOdd", 12, -1.0), "even_zernike": ("ZernikeCoeffsEven", 8, 1.0)}
"Name, number and factor: odd coefficients of M undo what the microscope did, ours, as RELION's, do it again."
OTHER_NAMES = {"GridCTF": ("GridCTFDefocus",)}
"Names that other versions give the same grid."
