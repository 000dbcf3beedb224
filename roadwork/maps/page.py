"""The HTML page of a map, self-contained."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from roadwork.core.errors import MissingExtraError
from roadwork.maps.layers import MapLayer

_TILE_HOST = "https://tile.openstreetmap.org"
_PLACE = "<!-- panel and texts -->"
_OPENING = """
{% macro script(this, kwargs) %}
openMap({{ this._parent.get_name() }}, [{{ this.drawn|join(", ") }}], {{ this.bounds|tojson }});
{% endmacro %}
"""
_TILE_CREDIT = '&copy; <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a> contributors'
# Land has its own pane below the tiles, so that it does not catch mouse events of the layers above.
_LAND_PANE, _LAND_HEIGHT = "land", 150


@dataclass(frozen=True)
class PanelRow:
    """One row of the table of splits, as text."""

    name: str
    images: str
    roadwork: str
    located: str


@dataclass(frozen=True)
class Panel:
    """The panel beside the map.

    Attributes:
        title: title of the page.
        rows: counts by split.
        legend: (color, range) of the density, from few to many.
        notes: sentences.
    """

    title: str
    rows: Sequence[PanelRow]
    legend: Sequence[tuple[str, str]]
    notes: Sequence[str]


def render_page(layers: Sequence[MapLayer], panel: Panel, bounds: list[list[float]], *, tiles: bool) -> str:
    """The HTML of the map.

    Args:
        layers: from bottom to top.
        panel: the panel beside the map.
        bounds: [[south, west], [north, east]] in degrees, the view when the map opens.
        tiles: whether the browser loads OpenStreetMap tiles.

    Raises:
        MissingExtraError: folium is not installed.
    """
    try:
        import folium  # noqa: PLC0415 -- an extra
        import jinja2  # noqa: PLC0415
        from branca.element import Element  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError('A map needs folium. Install it: pip install "roadwork-vision[report]"') from error
    leaflet = folium.Map(
        tiles=None, prefer_canvas=True, control_scale=True, zoom_control="bottomright", font_size="13px", zoom_snap=0.25
    )
    # folium would load scripts and styles from other hosts. Leaflet is inlined, and nothing else is needed.
    leaflet.default_js, leaflet.default_css = [], []
    figure = leaflet.get_root()
    figure.title = html.escape(panel.title)
    _add_to_header(
        figure, '<meta http-equiv="Content-Security-Policy" content="{{ this.content }}">', _policy(tiles=tiles)
    )
    leaflet_js = f"/*\n{_asset('leaflet.LICENSE')}*/\n{_asset('leaflet.js')}"
    _add_to_header(figure, "<script>{{ this.content }}</script>", leaflet_js + _asset("page.js"))
    _add_to_header(figure, "<style>{{ this.content }}</style>", _asset("leaflet.css") + _asset("page.css"))
    _add_background(leaflet, tiles=tiles)
    texts: dict[str, int] = {}
    drawn = [_add_layer(leaflet, layer, texts) for layer in layers]
    folium.LayerControl(collapsed=folium.JsCode("isNarrow()")).add_to(leaflet)
    _add_opening(leaflet, drawn, bounds)
    figure.html.add_child(Element(_PLACE))
    before, after = figure.render().split(_PLACE)
    # folium renders its output once more as a template, which would execute a file name such as {{ 7*7 }}. So text
    # from the data is inserted afterwards.
    template = jinja2.Environment(autoescape=True).from_string(_asset("panel.html"))
    return f"{before}{template.render(panel=panel, texts=list(texts))}{after}"


def _asset(name: str) -> str:
    return (files("roadwork.maps") / "assets" / name).read_text(encoding="utf-8")


def _add_to_header(figure: Any, template: str, content: str) -> None:
    from branca.element import Element  # noqa: PLC0415

    element = Element(template)
    element.content = content
    figure.header.add_child(element)


def _policy(*, tiles: bool) -> str:
    """The content security policy: no requests, except for tiles if they are wanted."""
    images = f"data: {_TILE_HOST}" if tiles else "data:"
    return f"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src {images}"


def _add_background(leaflet: Any, *, tiles: bool) -> None:
    import folium  # noqa: PLC0415
    from folium.map import CustomPane  # noqa: PLC0415

    if tiles:
        folium.TileLayer(f"{_TILE_HOST}/{{z}}/{{x}}/{{y}}.png", attr=_TILE_CREDIT, control=False).add_to(leaflet)
    CustomPane(_LAND_PANE, z_index=_LAND_HEIGHT).add_to(leaflet)
    style = {"stroke": True, "color": "#b9b9b2", "weight": 0.7, "fillColor": "#f6f5f0", "fillOpacity": 1, "fill": True}
    folium.GeoJson(
        json.loads(_asset("land.geojson")),
        name="Land",
        control=False,
        style=style,
        pane=_LAND_PANE,
        interactive=False,
        attribution="Land: Natural Earth",
    ).add_to(leaflet)


def _add_opening(leaflet: Any, drawn: Sequence[Any], bounds: list[list[float]]) -> None:
    from folium.elements import MacroElement  # noqa: PLC0415
    from folium.template import Template  # noqa: PLC0415

    opening = MacroElement()
    opening._template = Template(_OPENING)  # noqa: SLF001 -- as folium's own plugins do
    opening.drawn, opening.bounds = [layer.get_name() for layer in drawn], bounds
    leaflet.add_child(opening)


def _add_layer(leaflet: Any, layer: MapLayer, texts: dict[str, int]) -> Any:
    """Adds a layer whose features refer to their tooltip by its index in `texts`; new tooltips are added there."""
    import folium  # noqa: PLC0415

    features = [
        feature | {"properties": properties | {"text": texts.setdefault(properties["text"], len(texts))}}
        for feature in layer.features
        for properties in [feature["properties"]]
    ]
    swatch = f'<span class="swatch" style="background: {layer.color}"></span>{html.escape(layer.name)}'
    drawn = folium.GeoJson(
        {"type": "FeatureCollection", "features": features},
        name=swatch,
        show=layer.shown,
        style=layer.style,
        marker=folium.CircleMarker(),
        smooth_factor=0.5,
        on_each_feature=folium.JsCode("showText"),
    )
    drawn.add_to(leaflet)
    return drawn
