from halfmap.splines.pyramid import pyramid_shapes


def test_levels_follow_the_rule_of_m():
    # 30 frames, 40 e/Å²: (1, 1, 30), then (2, 2, 8), and two nodes in time are too few for a third
    assert pyramid_shapes(1, 1, 30, 40.0) == [(30, 1, 1), (8, 2, 2)]
    assert pyramid_shapes(2, 3, 60, 60.0) == [(60, 3, 2), (15, 6, 4), (4, 12, 8)]


def test_dose_limits_the_nodes_in_time():
    assert pyramid_shapes(1, 1, 100, 5.5) == [(6, 1, 1)]


def test_a_single_frame_keeps_its_level():
    assert pyramid_shapes(4, 4, 1, 0.5) == [(1, 4, 4)]
