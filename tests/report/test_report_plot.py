"""Charts and the error map: positions of points, and escaped text."""

import itertools
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from fixtures.report_runs import HOSTILE

from roadwork.report.charts import Plot, nice_ticks
from roadwork.report.error_map import _clip, _find_places, draw_error_map


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.6, 1, [0.6, 0.7, 0.8, 0.9, 1]),
        (-0.3, 1, [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 3.1, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_dots_are_placed_on_linear_and_log_axes():
    plot = Plot("t", x=(0, 10), y=(0.01, 1), x_label="x", y_label="y", log_y=True)
    plot.dots([(0, 0.01), (5, 0.1), (10, 1)], "series1")
    dots = ET.fromstring(plot.svg()).findall("circle")
    (x0, x1, x2), (y0, y1, y2) = ([float(dot.get(key)) for dot in dots] for key in ("cx", "cy"))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert x2 > x0
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    assert y2 < y0


def test_steps_are_horizontal_or_vertical():
    plot = Plot("t", x=(0, 1), y=(0, 1), x_label="x", y_label="y")
    plot.steps([(0, 0), (0.5, 1), (1, 0.5)], "curve")
    path = ET.fromstring(plot.svg()).find("path[@class='line curve']").get("d")
    points = [tuple(map(float, part.split())) for part in path[1:].split("L")]
    assert len(points) == 5
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(points))


def test_narrow_log_axis_has_ticks():
    plot = Plot("t", x=(0, 1), y=(0.6, 0.8), x_label="x", y_label="y", log_y=True)
    ticks = [text.text for text in ET.fromstring(plot.svg()).findall("text[@text-anchor='end']")]
    assert ticks == ["0.6", "0.65", "0.7", "0.75", "0.8"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_of_a_plot_are_escaped(hostile):
    plot = Plot(hostile, x=(0, 1), y=(0, 1), x_label=hostile, y_label=hostile)
    plot.dots([(0.5, 0.5)], "series1", [hostile])
    plot.vertical_line(0.5, hostile, "chosen")
    drawn = ET.fromstring(plot.svg())
    assert {element.tag for element in drawn.iter()} == {"svg", "title", "path", "text", "circle"}
    assert drawn.find("title").text == hostile


def area(ring):
    x, y = ring.T
    return abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) / 2


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        ([(-100, -100), (2000, -100), (2000, 2000), (-100, 2000)], 770 * 310),  # larger than the view and its margin
        ([(10, 10), (20, 10), (20, 20), (10, 20)], 100),
        ([(-105, 0), (95, 0), (95, 10), (-105, 10)], 1000),
        ([(-50, -50), (-20, -50), (-20, -20)], 0),
    ],
)
def test_land_is_clipped_to_the_view(ring, expected):
    cut = _clip(np.array([*ring, ring[0]], dtype=float), 300)
    assert (area(cut) if len(cut) else 0) == pytest.approx(expected)


def test_nearby_photos_share_a_mark():
    xy = np.array([[100.0, 100], [101, 100], [103.9, 104.1], [300, 100], [100, 300]])
    places = _find_places(xy)
    assert places[0] == places[1] == places[2]
    assert len(set(places)) == 3


def test_error_map_counts_every_photo_with_gps(tiny_run):
    from roadwork.metrics.predictions import read_predictions

    rows = read_predictions(tiny_run / "predictions.parquet")
    is_wrong = np.arange(len(rows)) % 3 == 0
    drawn = draw_error_map(rows, is_wrong)
    counts = np.array(re.findall(r"([\d,]+) photos, ([\d,]+) missed roadwork, ([\d,]+) false alarms", drawn), dtype=int)
    known = rows["latitude"].notna().to_numpy()
    assert counts[:, 0].sum() == known.sum()
    assert counts[:, 1].sum() == (known & is_wrong & (rows["label"] == 1)).sum()
    assert counts[:, 2].sum() == (known & is_wrong & (rows["label"] == 0)).sum()
    assert draw_error_map(rows.assign(latitude=np.nan), is_wrong) is None
    assert len(drawn) < 150_000
    ET.fromstring(drawn)
