import json

import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import DataError
from roadwork.data.deployment import load_deployment_points

POINTS = [[52.52, 13.40], [48.86, 2.35]]


def point(longitude, latitude):
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [longitude, latitude]}}


@pytest.mark.parametrize(
    "text",
    [
        "latitude,longitude\n52.52,13.40\n48.86,2.35\n",
        "name,Lat,LNG\nBerlin,52.52,13.40\nParis,48.86,2.35\nnowhere,,\n",
        "lon;lat\n13,40;52,52\n2,35;48,86\n",
        'gps\n"(52.52, 13.40)"\nPOINT(2.35 48.86)\n',
        "\ufefflat\tlon\n52.52\t13.4\n0\t0\n48.86\t2.35\n",
    ],
)
def test_csv(tmp_path, text):
    path = tmp_path / "deployment.csv"
    path.write_text(text, encoding="utf-8")
    np.testing.assert_allclose(load_deployment_points(path), POINTS)


def test_parquet(tmp_path):
    path = tmp_path / "deployment.parquet"
    pd.DataFrame({"lon": [13.4, None, 2.35], "lat": [52.52, None, 48.86], "label": [1, 0, 1]}).to_parquet(path)
    np.testing.assert_allclose(load_deployment_points(path), POINTS)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "MultiPoint", "coordinates": [[13.40, 52.52], [2.35, 48.86, 35.0]]},
        {"type": "FeatureCollection", "features": [point(13.40, 52.52), point(2.35, 48.86)]},
        {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "geometry": None, "properties": {}},
                {"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": [[13.40, 52.52]]}},
                point(2.35, 48.86),
            ],
        },
    ],
)
def test_geojson_is_longitude_first(tmp_path, content):
    path = tmp_path / "deployment.geojson"
    path.write_text(json.dumps(content))
    np.testing.assert_allclose(load_deployment_points(path), POINTS)
    path.write_text(json.dumps(point(13.40, 52.52)))
    np.testing.assert_allclose(load_deployment_points(path), POINTS[:1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "latitude,longitude\n", "no point"),
        ("a.csv", "latitude,longitude\n0,0\n", "no point"),
        ("a.csv", "x,y\n1,2\n", "columns x, y"),
        ("a.csv", "lat,name\n1,b\n", "longitude"),
        ("a.csv", "lon,name\n1,b\n", "latitude"),
        ("a.csv", "lat,lon\n139.7,35.7\n", r"row 1 \(latitude 139\.7, longitude 35\.7\)"),
        ("a.csv", "", r"a\.csv.*\bcsv: "),
        ("a.parquet", "no parquet", r"a\.parquet.*\bparquet: "),
        ("a.geojson", "{", r"a\.geojson.*\bgeojson: "),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "no point"),
        ("a.geojson", '{"type": "Polygon", "coordinates": []}', "'Polygon'"),
        ("a.geojson", "[]", "GeoJSON type None"),
        ("a.geojson", '{"type": "Point", "coordinates": []}', "no point"),
        ("a.geojson", '{"type": "MultiPoint", "coordinates": [13, 52]}', r"\b13\b.*\[longitude, latitude\]"),
        ("a.geojson", '{"type": "Point", "coordinates": [35.7, 139.7]}', "point 1 .*[Ss]wap"),
        ("a.shp", "", r"\.shp"),
        ("a", "", "extension"),
    ],
)
def test_unusable_files_are_rejected_by_name(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_deployment_points(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"exist.*data\.gps_sampling\.target"):
        load_deployment_points(tmp_path / "absent.csv")
