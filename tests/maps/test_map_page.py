"""The map file: complete, without requests, safe against injected code."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from fixtures.maps import layers_of, make_deployment, make_table, make_world, without_random_names

from roadwork.core.errors import DataError, MissingExtraError
from roadwork.data.utils.privacy import round_positions
from roadwork.maps.map import build_map, write_map

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "`${window.pwned=1}`",
    "{{ 7*7 }}{% raw %}",
    "'\"\\\u2028 --><!--",
)


class Loads(HTMLParser):
    """Collects the tags of a page and the URLs they load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "a":
            self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]


def parsed(page: str) -> Loads:
    parser = Loads()
    parser.feed(page)
    return parser


@pytest.fixture(scope="module")
def page():
    table, split_names, predictions = make_world()
    deployment = make_deployment(np.array([[52.4, 4.9], [52.3, 4.8]]))
    return build_map(table, split_names, title="demo", deployment=deployment, predictions=predictions)


def test_page_makes_no_requests(page):
    assert parsed(page).loads == []
    assert re.findall(r"url\(\s*['\"]?(?!data:|#)", page) == []
    assert "@import" not in page
    assert "sourceMappingURL" not in page
    # Only a link for readers and the SVG namespace.
    assert set(re.findall(r"https?://[^\s\"'\\<)]+", page)) == {"https://leafletjs.com", "http://www.w3.org/2000/svg"}


def test_page_includes_the_leaflet_licence(page):
    assert "Copyright (c) 2010-2023, Volodymyr Agafonkin" in page
    assert "THIS SOFTWARE IS PROVIDED" in page


def test_page_policy_forbids_loading(page):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert page.index("Content-Security-Policy") < page.index("<script")


def test_openstreetmap_tiles_are_opt_in_and_credited(page):
    table, split_names, _ = make_world()
    tiled = build_map(table, split_names, title="demo", tiles=True)
    assert "tile.openstreetmap.org/{z}/{x}/{y}.png" in tiled
    assert "https://www.openstreetmap.org/copyright" in tiled
    assert "openstreetmap" not in page
    assert parsed(tiled).loads == []


def test_page_has_counts_and_notes(page):
    for words in ("<title>demo</title>", "train", "In no split", "5 below 50 km", "0.3 beyond", "deployment.csv"):
        assert words in page
    assert "Positions are not rounded." in page


@pytest.mark.parametrize("hostile", HOSTILE)
def test_names_are_escaped(hostile):
    benign_table, split_names, predictions = make_world()
    deployment = make_deployment(np.array([[52.4, 4.9]]), origin=hostile)
    harmful = predictions.assign(filename=hostile)
    page = build_map(
        benign_table, split_names, title=hostile, deployment=deployment, predictions=harmful, notes=[hostile]
    )
    quiet = build_map(
        benign_table,
        split_names,
        title="title",
        deployment=make_deployment(np.array([[52.4, 4.9]])),
        predictions=predictions.assign(filename="a.jpg"),
        notes=["note"],
    )
    assert parsed(page).tags == parsed(quiet).tags
    assert page.count("<script") == quiet.count("<script")
    if "<" in hostile:
        assert hostile not in page
    (texts,) = re.findall(r"^const texts = (.*);$", page, re.MULTILINE)
    assert any(hostile in text for text in json.loads(texts))


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_rounded_map_equals_map_of_rounded_positions(decimals):
    table, split_names, predictions = make_world(200)
    rounded = round_positions(predictions[["latitude", "longitude"]].to_numpy(), decimals)
    page = build_map(table, split_names, title="t", predictions=predictions, decimals=decimals)
    same = build_map(
        make_table(round_positions(table.gps, decimals)),
        split_names,
        title="t",
        predictions=predictions.assign(latitude=rounded[:, 0], longitude=rounded[:, 1]),
        decimals=decimals,
    )
    assert without_random_names(page) == without_random_names(same)
    assert f"Positions are rounded to {decimals} decimal" in page


def test_unrounded_map_keeps_distinct_positions():
    table, split_names, _ = make_world(200)
    moved = make_table(round_positions(table.gps, 2))
    pages = [build_map(t, split_names, title="t") for t in (table, moved)]
    assert without_random_names(pages[0]) != without_random_names(pages[1])


def test_map_of_many_rows_is_a_small_file():
    rng = np.random.default_rng(0)
    n_rows = 20_000
    gps = np.stack([rng.uniform(-60, 70, n_rows), rng.uniform(-180, 180, n_rows)], axis=1)
    split_names = np.where(np.arange(n_rows) % 2, "train", "val_test").astype(object)
    page = build_map(make_table(gps), split_names, title="t")
    assert len(page) < 4_000_000
    assert sum(map(len, layers_of(page))) < 12_000


def test_data_without_gps_is_rejected():
    table = make_table(np.full((3, 2), np.nan))
    with pytest.raises(DataError, match=r"3 rows.*data\.columns"):
        build_map(table, np.full(3, "train", dtype=object), title="t")


def test_missing_folium_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "folium", None)
    table, split_names, _ = make_world()
    with pytest.raises(MissingExtraError, match=r'pip install "roadwork-vision\[report\]"'):
        build_map(table, split_names, title="t")


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "new" / "map.html"
    write_map(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_map(path, "broken \ud800")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
