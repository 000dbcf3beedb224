"""The map in a browser without a network: it draws, logs no errors, and executes no file name."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fixtures.browser import CHROMIUM, need_chromium
from fixtures.maps import make_deployment, make_world

from roadwork.maps.map import build_map


@pytest.fixture(autouse=True)
def _browser_is_there():
    need_chromium()


HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>`${window.pwned=1}`{{ 7*7 }}"
FIRST = """<script>
window.problems = [];
window.addEventListener("error", (event) => problems.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => problems.push("blocked " + event.blockedURI));
console.error = console.warn = (...words) => problems.push(words.join(" "));
</script>"""
# After Leaflet has painted, this reads its objects, opens every tooltip, and posts the findings to the outer page.
LAST = """<script>
setTimeout(() => {
const map = Object.values(window).find((value) => value instanceof L.Map);
const box = (selector) => document.querySelector(selector).getBoundingClientRect();
const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
const colours = (canvas) => new Set(
  new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
const painted = [...document.querySelectorAll("canvas")].map(colours);
const places = [];
map.eachLayer((layer) => layer instanceof L.CircleMarker && places.push(layer.getLatLng()));
const inView = places.length > 0 && places.every((place) => map.getBounds().contains(place));
const zooms = {};
for (const zoom of [2, 6, 9]) {
  map.setZoom(zoom, { animate: false });
  zooms[zoom] = 0;
  map.eachLayer((layer) => { if (layer instanceof L.Polygon && layer.options.interactive) zooms[zoom] += 1; });
}
const opened = [];
map.eachLayer((layer) => {
  if (!(layer instanceof L.CircleMarker)) return;
  layer.openTooltip();
  if (layer.getTooltip()) opened.push(layer.getTooltip().getElement().textContent);
});
const seen = {
  zooms: zooms,
  colours: painted,
  inView: inView,
  tooltips: opened,
  images: document.querySelectorAll(".leaflet-tooltip img, .leaflet-tooltip script").length,
  switches: document.querySelectorAll(".leaflet-control-layers-overlays input").length,
  size: [window.innerWidth, window.innerHeight],
  open: document.getElementById("panel").open,
  overlap: overlap(box("#panel"), box(".leaflet-control-layers")),
  title: document.title,
  pwned: window.pwned === undefined ? null : String(window.pwned),
  loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
  problems: problems,
};
parent.postMessage(JSON.stringify(seen), "*");
}, 500);
</script>"""
# A window has a minimum width; a frame has none.
FRAME = """<iframe src="map.html" style="width: {width}px; height: {height}px; border: 0"></iframe>
<pre id="seen"></pre>
<script>window.onmessage = (event) => {{ document.getElementById("seen").textContent = event.data; }};</script>"""


def look_at(page: str, folder: Path, width: int, height: int) -> dict:
    probed = page.replace("<head>", "<head>" + FIRST, 1).replace("</html>", LAST + "</html>")
    (folder / "map.html").write_text(probed, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, height=height))
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000"),
        *("--virtual-time-budget=5000", "--dump-dom", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (400, 700)])
def test_map_renders_without_executing_data(tmp_path, width, height):
    table, split_names, predictions = make_world(200)
    page = build_map(
        table,
        split_names,
        title=HOSTILE,
        deployment=make_deployment(np.array([[52.4, 4.9], [52.3, 4.8]]), origin=HOSTILE),
        predictions=predictions.assign(filename=HOSTILE),
    )
    seen = look_at(page, tmp_path, width, height)
    assert seen["size"] == [width, height]
    assert seen["problems"] == []
    assert seen["loaded"] == []
    assert seen["pwned"] is None
    assert seen["images"] == 0
    assert seen["title"] == HOSTILE
    assert any(HOSTILE in text for text in seen["tooltips"])
    assert seen["switches"] == 10
    assert seen["open"] is (width == 1400)
    assert not seen["overlap"]
    assert seen["inView"]
    # One canvas has land and sea, the other cells, circles and markers in many colors.
    assert len(seen["colours"]) == 2
    assert min(seen["colours"]) > 3
    # Higher zooms show finer and therefore more cells.
    assert seen["zooms"]["2"] < seen["zooms"]["6"] < seen["zooms"]["9"]
