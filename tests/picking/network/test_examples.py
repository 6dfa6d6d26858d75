import numpy as np
import torch

from halfmap.picking.network.examples import OUTPUT, POSITIVE_RADIUS, CropSource, LabelledMicrograph, split
from halfmap.picking.network.model import REACH


def a_micrograph(name="one", shape=(60, 80), positions=((20.0, 30.0), (70.4, 5.2))):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return LabelledMicrograph(
        name=name,
        values=torch.from_numpy(1000.0 * y + x).float(),
        usable=torch.ones(shape, dtype=torch.bool),
        pickable=torch.ones(shape, dtype=torch.bool),
        position_pixel=np.array(positions, dtype=np.float64).reshape(-1, 2),
    )


def test_labelled_pixels_are_a_disc_about_each_centre():
    mask = a_micrograph().labelled()
    y, x = np.mgrid[:60, :80]
    near = np.minimum(np.hypot(x - 20, y - 30), np.hypot(x - 70.4, y - 5.2)) <= POSITIVE_RADIUS
    np.testing.assert_array_equal(mask.numpy(), near)


def test_the_middle_of_a_crop_is_where_its_masks_say():
    source = CropSource([a_micrograph()])
    crops = source.around_particles(np.arange(40), seed=1, epoch=0)
    assert crops.images.shape == (40, OUTPUT + 2 * REACH, OUTPUT + 2 * REACH)
    assert bool(crops.labelled.any(dim=(1, 2)).all())
    middle = slice(REACH, REACH + OUTPUT)
    for image, labelled in zip(crops.images[:, middle, middle], crops.labelled, strict=True):
        y, x = np.divmod(image[labelled].numpy(), 1000)
        distance = np.minimum(np.hypot(x - 20, y - 30), np.hypot(x - 70.4, y - 5.2))
        assert distance.max() <= POSITIVE_RADIUS


def test_crops_from_anywhere_come_evenly_from_all_of_the_area():
    source = CropSource([a_micrograph(), a_micrograph(shape=(60, 40), positions=())])
    crops = source.anywhere(np.arange(3000), seed=1, epoch=0)
    seen = crops.images[:, REACH + OUTPUT // 2, REACH + OUTPUT // 2]
    # 80 of 120 columns are the first micrograph's, of which 40 lie beyond the second's: a third of all
    share = float((seen % 1000 >= 40).double().mean())
    assert abs(share - 1 / 3) < 0.03  # 3000 draws: a standard error of 0.009


def test_each_epoch_has_other_crops_and_each_seed_the_same_again():
    source = CropSource([a_micrograph()])
    first, second = (source.anywhere(np.arange(9), seed=1, epoch=epoch).images for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, source.anywhere(np.arange(9), seed=1, epoch=0).images)


def test_whole_micrographs_are_held_out_and_a_single_one_is_cut():
    many = [a_micrograph(f"mic{number}") for number in range(6)]
    taught, held_out = split(many, held_out_fraction=0.3, seed=1)
    assert len(held_out) == 2
    assert sorted(one.name for one in (*taught, *held_out)) == [one.name for one in many]
    taught, held_out = split([a_micrograph()], held_out_fraction=0.2, seed=1)
    assert taught[0].values.shape[1] + held_out[0].values.shape[1] == 80
    np.testing.assert_allclose(held_out[0].position_pixel[0], [10.4, 5.2])
    assert taught[0].part + held_out[0].part == 1.0


def test_a_micrograph_without_labels_is_not_held_out():
    some = [a_micrograph("full"), a_micrograph("empty", positions=()), a_micrograph("other")]
    for seed in range(5):
        _, held_out = split(some, held_out_fraction=0.2, seed=seed)
        assert [one.name for one in held_out] != ["empty"]


def test_where_picks_are_judged_keeps_half_a_diameter_from_a_cut():
    left, right = a_micrograph().halved(0.5)
    for part, good in ((left, slice(0, 32)), (right, slice(8, 40))):
        expected = torch.zeros(60, 40, dtype=torch.bool)
        expected[:, good] = True
        assert torch.equal(part.pickable, expected)
        assert bool(part.usable.all())
