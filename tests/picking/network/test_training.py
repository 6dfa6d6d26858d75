import numpy as np
import pytest
import torch

from halfmap.errors import InconsistentDataError
from halfmap.picking.network.training import judge, train
from support.detectors import labelled, settings, taught


def small(**changes):
    return settings(epochs=2, crops_per_epoch=16, **changes)


def test_a_detector_learns_to_find_dark_balls():
    assert taught().average_precision.max() > 0.95
    assert taught().losses[-1] < 0.5 * taught().losses[0]


def test_weights_are_those_of_the_best_epoch():
    assert taught().best_epoch == int(taught().average_precision.argmax()) + 1


def test_a_training_that_goes_on_from_a_state_ends_at_the_same_bits():
    micrographs, judges = [labelled(0), labelled(1)], [labelled(2)]
    states = []
    whole = train(micrographs, judges, small(), after_epoch=states.append)
    continued = train(micrographs, judges, small(), start=states[0])
    np.testing.assert_array_equal(whole.losses, continued.losses)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, continued.network.state_dict()[name])


def test_micrographs_without_labels_are_refused():
    with pytest.raises(InconsistentDataError, match="must hold labelled particles"):
        train([labelled(0, share=0.0)], [labelled(1)], small())
    with pytest.raises(InconsistentDataError, match="held out must hold"):
        train([labelled(0)], [labelled(1, share=0.0)], small())


def test_peaks_are_judged_where_picks_are_made():
    one = labelled(5)
    counted = judge(taught().network, [one])
    edge = np.array([one.values.shape[1], one.values.shape[0]])
    whole = ((one.position_pixel >= 8) & (one.position_pixel <= edge - 9)).all(axis=1)
    assert abs(counted.n_labels - int(whole.sum())) <= 1
    assert 0.7 < counted.part < 0.9


def test_more_channels_are_kept_with_the_network():
    trained = train([labelled(0)], [labelled(1)], small(channels=4))
    assert trained.network.first.weight.shape[0] == 4
