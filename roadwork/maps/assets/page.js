// texts: see panel.html. They are inserted as text: a file name is never parsed as HTML.
function showText(feature, layer) {
  if (!feature.properties) return;
  layer.bindTooltip(() => {
    const box = document.createElement("div");
    box.textContent = texts[feature.properties.text];
    return box;
  }, { sticky: true });
}

function isNarrow() {
  return window.innerWidth < 800;
}

// Shows features with a zoom range, such as finer cells, only at these zooms.
function followZoom(map, layer) {
  const all = layer.getLayers();
  const update = () => all.forEach((shape) => {
    const [from, to] = shape.feature.properties.zoom || [0, Infinity];
    const wanted = from <= map.getZoom() && map.getZoom() < to;
    if (wanted !== layer.hasLayer(shape)) layer[wanted ? "addLayer" : "removeLayer"](shape);
  });
  map.on("zoomend", update);
  update();
}

// layers: from bottom to top. bounds: [[south, west], [north, east]] in degrees.
function openMap(map, layers, bounds) {
  const stack = () => layers.forEach((layer) => map.hasLayer(layer) && layer.bringToFront());
  layers.forEach((layer) => followZoom(map, layer));
  map.on("overlayadd zoomend", stack);
  stack();
  map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
  map.setMinZoom(0).setMaxZoom(18);
  const panel = document.getElementById("panel");
  const control = document.querySelector(".leaflet-control-layers");
  if (isNarrow()) panel.open = false;
  const fit = () => map.fitBounds(bounds, {
    maxZoom: 12,
    paddingTopLeft: isNarrow() ? [20, panel.offsetHeight + 20] : [panel.offsetWidth + 30, 30],
    paddingBottomRight: isNarrow() ? [20, 50] : [control.offsetWidth + 30, 40],
    animate: false,
  });
  fit();
  // After a resize, such as rotating a phone, the map fits its bounds again, until the user has moved it.
  map.on("resize", fit);
  ["pointerdown", "wheel", "keydown"].forEach((event) =>
    map.getContainer().addEventListener(event, () => map.off("resize", fit), { once: true }));
}
