"""Which classes are kept, and how their particles move and are grouped."""

import numpy as np
import pytest
import scipy.ndimage

from halfmap.data.class_averages import ClassAverages
from halfmap.data.particles import ParticleSet
from halfmap.errors import InconsistentDataError, InputError
from halfmap.geometry.euler import array_from_euler
from halfmap.grid import ImageGrid
from halfmap.selection.classes import choose, compared_resolution, recentred, regrouped
from halfmap.selection.params import ClassesParams
from support.class_runs import PIXEL_SIZE, blob

COUNTS = np.array([50, 0, 30, 5, 15])
SCORES = np.array([0.9, 0.8, 0.4, 0.6, np.nan])


def averages(**columns):
    grid = ImageGrid.square(8, PIXEL_SIZE)
    table = {
        "average": np.zeros((5, 8, 8), dtype=np.float32),
        "n_particles": COUNTS,
        "score": SCORES,
        "ssnr_resolution_angstrom": np.array([10.0, 8.0, 12.0, 20.0, np.inf]),
        **columns,
    }
    return ClassAverages(columns=table, grid=grid)


def kept(**asked):
    earlier = asked.pop("earlier", None)
    return (np.flatnonzero(choose(averages(), ClassesParams(**asked), earlier=earlier).kept) + 1).tolist()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"classes": (1, 4)}, [1, 4]),
        ({"classes": (1, 2)}, [1]),  # nothing is in class 2
        ({"exclude": (1,)}, [3, 4, 5]),
        ({"auto": True}, [1, 4]),
        ({"min_score": 0.4}, [1, 3, 4]),
        ({"auto": True, "min_score": 0.7}, [1]),
        ({"min_resolution_angstrom": 12.0}, [1, 3]),
        ({"min_resolution_angstrom": 12.0, "min_score": 0.5}, [1]),
        ({"classes": (1, 3, 4), "min_resolution_angstrom": 15.0}, [1, 3]),
        ({"exclude": (3,), "min_resolution_angstrom": 15.0}, [1]),
        ({"earlier": np.array([1, 0, 1, 1, 0], dtype=bool)}, [1, 3, 4]),
        ({"earlier": np.array([1, 0, 1, 1, 0], dtype=bool), "min_score": 0.5}, [1, 4]),
    ],
)
def test_classes_are_kept_that_fulfil_everything_asked(asked, expected):
    assert kept(**asked) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"min_particles": 55}, [1, 4]),  # there already
        ({"min_particles": 56}, [1, 3, 4]),
        ({"min_particles": 999}, [1, 3, 4]),  # class 2 is empty and class 5 has no score
        ({"min_classes": 3}, [1, 3, 4]),
        ({"min_score": 0.95, "min_classes": 1}, [1]),
        ({"min_score": 0.95, "min_particles": 10, "min_classes": 2}, [1, 4]),
        ({"min_particles": 999, "exclude": (3,)}, [1, 4]),
    ],
)
def test_the_next_best_scores_are_added_until_there_is_enough(asked, expected):
    assert kept(**{"auto": True, **asked}) == expected


def test_every_class_has_the_reason_why_it_is_or_is_not_kept():
    params = ClassesParams(auto=True, min_classes=3, exclude=(4,), min_resolution_angstrom=12)
    choice = choose(averages(), params)
    assert choice.reason == (
        "",
        "no particles",
        "next best score",
        "excluded, resolution worse than 12 Å",
        "resolution worse than 12 Å",
    )
    choice = choose(averages(), ClassesParams(auto=True))
    assert choice.reason[2:] == ("score below 0.5", "", "no score")


def test_the_frc_is_compared_where_the_run_has_one():
    values, is_frc = compared_resolution(averages())
    assert not is_frc
    np.testing.assert_array_equal(values, averages()["ssnr_resolution_angstrom"])
    with_frc = averages(frc_resolution_angstrom=np.array([30.0, np.nan, 11.0, np.nan, np.nan]))
    choice = choose(with_frc, ClassesParams(min_resolution_angstrom=12.0))
    assert choice.is_frc
    assert choice.kept.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "must be told which classes to keep; got nothing"),
        ({"classes": (1, 6, 9)}, "`--classes` must name classes of the run, 1 to 5; got 6, 9"),
        ({"exclude": (7,)}, "`--exclude` must name classes of the run"),
        ({"classes": (2,)}, "must name a class with particles; got 2"),
        ({"min_score": 0.95}, "At least one of the 5 classes must be selected; got none"),
        ({"earlier": np.ones(4, dtype=bool)}, "one row for each of the 5 classes; got 4"),
        ({"classes": (1,), "exclude": (1,)}, "got 1 in both"),
        ({"classes": (1,), "min_classes": 2}, "need scores"),
    ],
)
def test_what_cannot_be_asked_is_said(asked, message):
    with pytest.raises(InputError, match=message):
        kept(**asked)


def test_scores_that_decide_must_be_there():
    with pytest.raises(InconsistentDataError, match="must have the column score"):
        choose(averages().without_columns("score"), ClassesParams(auto=True))


def two_off_centre_classes(n=24, side=32):
    """Return averages with a blob off the centre, particles of them, and the particles' images.

    A point v of the average lies in the image at A v − origin: the definition, written out.
    """
    random = np.random.default_rng(3)
    centres = np.array([[3.0, -2.0], [-4.0, 1.0]])
    psi = random.uniform(-180, 180, n)
    rotation = array_from_euler(np.zeros(n), np.zeros(n), psi)
    origin = random.uniform(-3, 3, (n, 2))
    number = 1 + np.arange(n) % 2
    angle = np.deg2rad(psi)
    x, y = centres[number - 1].T
    in_image = (
        np.stack([np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x], axis=-1) - origin
    )
    images = np.stack([blob(side, *place) for place in in_image])
    particles = ParticleSet(
        columns={
            "image_name": np.array([f"{i + 1}@a.mrcs" for i in range(n)], dtype=object),
            "class_number": number,
            "rotation": rotation,
            "origin_angstrom": origin * PIXEL_SIZE,
        }
    )
    table = ClassAverages(
        columns={"average": np.stack([blob(side, *centre) for centre in centres])},
        grid=ImageGrid.square(side, PIXEL_SIZE),
    )
    return table, particles, images, centres * PIXEL_SIZE


def average_of(images, particles, number):
    """Average images of a class, each shifted by its origin and turned back into the frame of the average."""
    side = images.shape[-1]
    middle = np.array([side // 2, side // 2])
    total = np.zeros((side, side))
    for row in np.flatnonzero(particles["class_number"] == number):
        a = particles["rotation"][row][:2, :2]
        swap = np.array([[0, 1], [1, 0]])
        matrix = swap @ a @ swap  # from (x, y) to (y, x): position v of the average → A v
        origin = particles["origin_angstrom"][row][::-1] / PIXEL_SIZE
        offset = middle - matrix @ middle - origin
        total += scipy.ndimage.affine_transform(images[row], matrix, offset=offset, order=3)
    return total


def mass_centre(image):
    rows, columns = np.mgrid[: len(image), : len(image)] - len(image) // 2
    return np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()


def test_particles_of_recentred_classes_average_to_a_centred_image():
    table, particles, images, centres = two_off_centre_classes()
    for number in (1, 2):
        before = mass_centre(average_of(images, particles, number))
        np.testing.assert_allclose(before * PIXEL_SIZE, centres[number - 1], atol=0.2)
    moved, after = recentred(table, particles, centres)
    np.testing.assert_allclose([mass_centre(image) for image in moved["average"]], 0, atol=1e-3)
    for number in (1, 2):
        # Interpolation of order 3 of blobs 2 px wide; a wrong sign would leave twice the shift, 7 px and more.
        np.testing.assert_allclose(mass_centre(average_of(images, after, number)), 0, atol=0.05)


def test_particles_of_other_classes_stay_where_they_are():
    table, particles, _, centres = two_off_centre_classes()
    moved, after = recentred(table.take([1]), particles, centres[1:])
    first = particles["class_number"] == 1
    np.testing.assert_array_equal(after["origin_angstrom"][first], particles["origin_angstrom"][first])
    assert (after["origin_angstrom"][~first] != particles["origin_angstrom"][~first]).any(axis=1).all()
    assert len(moved) == 1


def grouped_particles(sizes, optics_groups=None):
    """Return particles of micrographs m0, m1, … of these sizes."""
    number = np.repeat(np.arange(len(sizes)), sizes)
    optics = np.ones(len(sizes), dtype=np.int64) if optics_groups is None else np.asarray(optics_groups)
    return ParticleSet(
        columns={
            "image_name": np.array([f"{i + 1}@a.mrcs" for i in range(len(number))], dtype=object),
            "group_name": np.array([f"m{k}" for k in number], dtype=object),
            "group_number": number + 1,
            "optics_group": optics[number],
        }
    )


def test_micrographs_of_like_scale_are_joined_into_groups_that_are_large_enough():
    particles = grouped_particles([12, 12, 12, 12, 12, 12])
    scale = {"m0": 0.8, "m1": 1.2, "m2": 0.9, "m3": 1.1, "m4": 1.0, "m5": 0.95}
    joined = regrouped(particles, scale, number=3)
    members = {name: set(particles["group_name"][joined["group_name"] == name]) for name in set(joined["group_name"])}
    # More than 72 / 3 = 24 particles: three micrographs, in the order of their scale.
    assert members == {"group_01": {"m0", "m2", "m5"}, "group_02": {"m4", "m3", "m1"}}
    assert "group_number" not in joined


def test_groups_never_mix_optics_groups_and_a_small_rest_joins_the_one_before():
    particles = grouped_particles([12, 12, 2, 30, 30], [1, 1, 1, 2, 2])
    scale = dict.fromkeys(["m0", "m1", "m3", "m4"], 1.0) | {"m2": 2.0}
    joined = regrouped(particles, scale, number=5)
    pairs = set(zip(joined["group_name"], joined["optics_group"], strict=True))
    assert len(pairs) == len({name for name, _ in pairs})
    of = dict(zip(particles["group_name"], joined["group_name"], strict=True))
    assert of["m0"] == of["m1"] == of["m2"]
    assert of["m3"] != of["m4"]


def test_groups_of_fewer_than_ten_particles_are_refused():
    particles = grouped_particles([10, 15])
    with pytest.raises(InputError, match=r"at least 10 particles on average; got 3 groups for 25 particles.*2 or less"):
        regrouped(particles, {}, number=3)
    assert len(set(regrouped(particles, {}, number=2)["group_name"])) == 1
