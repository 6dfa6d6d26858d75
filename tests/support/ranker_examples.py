"""Invented examples for a class ranker: some numbers tell nearly what they are, the pictures tell nothing."""

import numpy as np

from halfmap.classification.ranking.features import FEATURES, GROUPS
from halfmap.classification.ranking.labels import Examples


def invented(n: int = 240, *, seed: int = 1, names: tuple[str, ...] = ()) -> Examples:
    """Return examples of structures of sixteen classes each.

    Parameters
    ----------
    names : of the structures, in order; others are called s0, s1 …
    """
    generator = np.random.default_rng(seed)
    purity = generator.random(n)
    features = generator.normal(size=(n, len(FEATURES))).astype(np.float32)
    features[:, 13:18] = 8 * (purity[:, None] - 0.5) + generator.normal(size=(n, 5))
    features[::3, list(GROUPS["frc"])] = np.nan
    group = np.arange(n) // 16
    return Examples(
        images=generator.normal(size=(n, 64, 64)).astype(np.float32),
        features=features,
        purity=purity,
        frc=purity,
        n_particles=generator.integers(5, 100, n),
        stack=np.arange(n) // 8,
        structures=np.array([names[k] if k < len(names) else f"s{k}" for k in group], dtype=object),
        group=group,
    )
