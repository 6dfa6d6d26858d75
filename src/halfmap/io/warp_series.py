"""The metadata of one tilt series or frame series, as Warp and M keep them: ``<item>.xml``."""

from halfmap.io.warp_series_reader import read_series
from halfmap.io.warp_series_sizes import SeriesSizes, dose_per_frame
from halfmap.io.warp_series_writer import write_series

__all__ = ["SeriesSizes", "dose_per_frame", "read_series", "write_series"]
