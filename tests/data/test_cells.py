"""H3 cells equal those of h3, and rows without a position have none."""

import h3
import numpy as np
import pytest

from roadwork.data.utils.geo import h3_cells


@pytest.mark.parametrize("resolution", [0, 5, 15])
def test_cells_contain_their_points_and_skip_missing_positions(resolution):
    rng = np.random.default_rng(0)
    gps = np.c_[rng.uniform(-90, 90, 200), rng.uniform(-180, 180, 200)]
    gps[:2] = [[90, 0], [0, 180]]
    gps[[5, 6]] = [[np.nan, np.nan], [52.0, np.nan]]
    cells = h3_cells(gps, resolution)
    assert cells.dtype == object
    assert list(cells[[5, 6]]) == ["", ""]
    for (latitude, longitude), cell in zip(np.delete(gps, [5, 6], 0), np.delete(cells, [5, 6]), strict=True):
        assert h3.get_resolution(cell) == resolution
        # A point's centre is no farther than the cell's farthest corner, by H3's own distance.
        corners = h3.cell_to_boundary(cell)
        center = h3.cell_to_latlng(cell)
        reach = max(h3.great_circle_distance(center, corner) for corner in corners)
        assert h3.great_circle_distance(center, (latitude, longitude)) <= reach


def test_no_rows():
    assert h3_cells(np.empty((0, 2)), 5).shape == (0,)
    assert list(h3_cells(np.full((2, 2), np.nan), 5)) == ["", ""]
