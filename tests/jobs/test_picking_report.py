import numpy as np

from halfmap.jobs.picking_report import PickedMicrograph, page


def picked(diameters, threshold):
    n = len(diameters)
    return PickedMicrograph(
        shape=(90, 80),
        position_pixel=np.full((n, 2), 40.0),
        figure_of_merit=np.arange(n, dtype=np.float64),
        diameter_angstrom=np.array(diameters),
        threshold=threshold,
        n_above=0,
        mask_pixel_size_angstrom=5.0,
        excluded_reason=(),
        excluded_share=(),
        picture=None,
        class_number=np.zeros(n, dtype=np.int64),
        psi_degrees=np.zeros(n),
    )


def titles(*micrographs):
    report = page("Picking", [(f"mic{i}.mrc", one, 10.0) for i, one in enumerate(micrographs)], ())
    (section,) = (section for section in report.sections if section.title == "Distributions")
    return [block.title for block in section.blocks]


def test_distributions_of_what_never_varies_are_not_shown():
    varied = titles(picked([120.0, 130.0], 0.4), picked([125.0, 130.0], 0.5))
    even = titles(picked([130.0, 130.0], -3.0), picked([130.0, 130.0], -3.0))
    assert varied == [
        "Figure of merit",
        "Picks a micrograph",
        "Diameter that fits best",
        "Threshold of each micrograph",
    ]
    assert even == ["Figure of merit", "Picks a micrograph"]
