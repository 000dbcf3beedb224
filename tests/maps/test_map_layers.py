"""Layers: each row is counted once, positions are rounded, errors are listed."""

from __future__ import annotations

import re

import h3
import numpy as np
import pandas as pd
import pytest
from fixtures.maps import make_deployment, make_world

from roadwork.data.utils.privacy import round_positions
from roadwork.maps.geometry import cell_levels, finest_resolution, gather_cells, mean_positions, zoom_of
from roadwork.maps.layers import density_layer, deployment_layers, error_layers, rows_layer


def counts_in(features):
    return [
        int(re.search(r"([\d,]+) (?:training )?image", f["properties"]["text"])[1].replace(",", "")) for f in features
    ]


@pytest.fixture
def gps():
    table, _, _ = make_world(400)
    return table.gps[table.has_gps]


def test_cells_count_each_row_once_at_every_zoom(gps):
    layer, legend = density_layer(gps, None)
    for zoom in np.arange(1, 18, 0.25):
        shown = [f for f in layer.features if f["properties"]["zoom"][0] <= zoom < f["properties"]["zoom"][1]]
        assert sum(counts_in(shown)) == len(gps), zoom
    assert 1 <= len(legend) <= 5


def test_legend_covers_the_count_of_every_cell(gps):
    layer, legend = density_layer(gps, None)
    ranges = {}
    for color, words in legend:
        low, _, high = words.replace(",", "").partition(" to ")
        ranges[color] = (int(low), int(high or low))
    for feature, count in zip(layer.features, counts_in(layer.features), strict=True):
        low, high = ranges[feature["properties"]["style"]["fillColor"]]
        assert low <= count <= high


def test_one_training_image_has_a_legend():
    layer, legend = density_layer(np.array([[52.37, 4.9]]), None)
    assert [words for _, words in legend] == ["1"]
    assert set(counts_in(layer.features)) == {1}


def test_cells_respect_rounding_and_zoom():
    for decimals, grain in ((0, 111.2), (1, 11.12), (2, 1.112)):
        assert h3.average_hexagon_edge_length(finest_resolution(decimals), unit="km") >= grain
    # A pixel at zoom z is 156.543 km * cos(latitude) / 2^z wide.
    for resolution in (2, 5, 8):
        pixel_km = 156.543 * np.cos(np.deg2rad(52)) / 2 ** zoom_of(resolution, 52.0)
        assert h3.average_hexagon_edge_length(resolution, unit="km") / pixel_km == pytest.approx(9, rel=1e-3)


def test_too_many_cells_are_coarsened_to_the_limit():
    rng = np.random.default_rng(1)
    gps = np.stack([rng.uniform(-60, 70, 5000), rng.uniform(-180, 180, 5000)], axis=1)
    cells, index = gather_cells(gps, 9, 900)
    assert len(cells) <= 900
    assert len(np.unique(index)) == len(cells)
    resolution = h3.get_resolution(cells[0])
    direct = [h3.latlng_to_cell(*position, resolution) for position in gps.tolist()]
    # A parent cell does not cover all of its children, so a few rows are in a neighbouring cell.
    assert np.mean(cells[index] == direct) > 0.8
    assert [counts.sum() for _, _, counts in cell_levels(gps, None, 900)] == [5000] * resolution


def test_mean_position_across_the_antimeridian():
    mean = mean_positions(np.array([[-18.0, 179.0], [-18.0, -179.0]]), np.array([0, 0]), 1)
    assert abs(mean[0, 1]) == pytest.approx(180)
    assert mean[0, 0] == pytest.approx(-18, abs=0.01)


def test_markers_count_images_and_roadwork(gps):
    labels = np.arange(len(gps)) % 2
    layer = rows_layer("val_test", "#000000", gps, labels, None, shown=True)
    matches = [
        re.fullmatch(r"val_test: ([\d,]+) images?, (\d+) with roadwork", f["properties"]["text"])
        for f in layer.features
    ]
    assert sum(int(words[1]) for words in matches) == len(gps)
    assert sum(int(words[2]) for words in matches) == labels.sum()


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_markers_centres_and_errors_use_rounded_positions(gps, decimals):
    _, _, predictions = make_world(400)
    layers = [
        rows_layer("train", "#000000", round_positions(gps, decimals), np.zeros(len(gps)), decimals, shown=True),
        *deployment_layers(make_deployment(gps[:40]), decimals),
        *error_layers(predictions, decimals),
    ]
    points = [
        f["geometry"]["coordinates"] for layer in layers for f in layer.features if f["geometry"]["type"] == "Point"
    ]
    assert len(points) > 4
    np.testing.assert_allclose(np.array(points), np.round(points, decimals), atol=1e-9)


def test_each_centre_has_a_circle_per_bracket(gps):
    centers, points = deployment_layers(make_deployment(gps[:40]), None)
    circles = [f for f in centers.features if f["geometry"]["type"] == "MultiLineString"]
    assert [f["properties"]["text"] for f in circles] == [
        "Centre 1\n0-50 km: weight 5",
        "Centre 1\n50-200 km: weight 2.5",
        "Centre 1\n200-500 km: weight 1",
    ]
    assert points.name == "Deployment points (40)"


def test_errors_are_rows_misclassified_at_half():
    predictions = pd.DataFrame(
        {
            "filename": ["missed.jpg", "alarm.jpg", "right.jpg", "lost.jpg", "edge.jpg"],
            "split": "val_test",
            "label": [1, 0, 1, 1, 1],
            "probability": [0.02, 0.9, 0.8, 0.3, 0.5],
            "latitude": [52.0, 52.0, 52.0, np.nan, 52.0],
            "longitude": [4.0, 4.0, 4.0, np.nan, 4.0],
        }
    )
    missed, alarms = error_layers(predictions, None)
    assert missed.name == "Missed roadwork (2, 1 without GPS)"
    assert [f["properties"]["text"] for f in missed.features] == [
        "Missed roadwork, 1 image\nmissed.jpg: 2.0% roadwork (val_test)"
    ]
    assert alarms.name == "False alarms (1)"
    assert [f["properties"]["text"] for f in alarms.features] == [
        "False alarms, 1 image\nalarm.jpg: 90.0% roadwork (val_test)"
    ]


def test_errors_at_one_place_share_a_marker():
    n_rows = 9
    predictions = pd.DataFrame(
        {
            "filename": [f"{row}.jpg" for row in range(n_rows)],
            "split": "val_test",
            "label": 0,
            "probability": np.linspace(0.55, 0.95, n_rows),
            "latitude": 52.0 + 1e-6 * np.arange(n_rows),
            "longitude": 4.0,
        }
    )
    _, alarms = error_layers(predictions, None)
    (marker,) = alarms.features
    lines = marker["properties"]["text"].split("\n")
    assert lines[0] == "False alarms, 9 images"
    assert lines[1] == "8.jpg: 95.0% roadwork (val_test)"
    assert lines[-1] == "and 3 more"
