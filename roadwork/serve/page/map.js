// The map of photos with GPS. It shows land without tiles and loads nothing from other hosts.

const section = document.getElementById("place");
let map = null;
let spots = null;

export function addSpot(card) {
  const { latitude, longitude } = card.answer;
  if (latitude === null || latitude === undefined) return;
  section.hidden = false;
  if (!map) open();
  const spot = L.circleMarker([latitude, longitude], { radius: 8, weight: 2, className: `spot ${card.kind()}` });
  spot.bindTooltip(() => {
    const box = document.createElement("div");
    box.textContent = `${card.part("verdict").textContent}: ${card.file.name}`;
    return box;
  });
  spot.on("click", () => {
    card.element.scrollIntoView({ block: "center" });
    card.element.focus();
  });
  spots.addLayer(spot);
}

export function fitSpots() {
  if (spots && spots.getLayers().length) map.fitBounds(spots.getBounds(), { maxZoom: 11, padding: [36, 36], animate: false });
}

export function clearSpots() {
  if (spots) spots.clearLayers();
  section.hidden = true;
}

function open() {
  map = L.map("map", { zoomSnap: 0.25, maxZoom: 17, minZoom: 1, worldCopyJump: true }).setView([30, 10], 2);
  map.attributionControl.setPrefix("").addAttribution("Leaflet · Land: Natural Earth");
  L.control.scale({ imperial: false }).addTo(map);
  map.createPane("land").style.zIndex = 150;
  spots = L.featureGroup().addTo(map);
  fetch("map/land.geojson").then((response) => response.json()).then((land) => {
    L.geoJSON(land, { pane: "land", interactive: false, style: { className: "land", weight: 0.7, fillOpacity: 1 } }).addTo(map);
  });
}
