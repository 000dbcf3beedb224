// Photos in, cards out: one portion after the other.

import { getFacts, predict } from "./api.js";
import { Card, percent } from "./card.js";
import { addSpot, clearSpots, fitSpots } from "./map.js";
import { inPortions, isTooLarge, megabytes } from "./portions.js";

const byId = (id) => document.getElementById(id);
const facts = await getFacts();
const { model, limits } = facts;
let cards = [];
let waiting = [];
let isBusy = false;

function describe() {
  const prior = model.prior === null ? "" : `, for places where ${percent(model.prior)} of the photos show it`;
  const unsure = model.abstain_low === null ? ""
    : ` From ${percent(model.abstain_low, model.threshold)} to ${percent(model.abstain_high, model.threshold)} it is too near to call.`;
  byId("model").textContent =
    `The detector “${model.name}” says roadwork from a probability of ${percent(model.threshold)}${prior}.${unsure}`;
  byId("limits").textContent =
    `JPEG, PNG or WebP, up to ${megabytes(limits.max_bytes)} and ${Math.round(limits.max_pixels / 1e6)} megapixels each`;
}

function showProgress() {
  const answered = cards.filter((card) => card.answer);
  const count = (kind) => answered.filter((card) => card.kind() === kind).length;
  const parts = [[count("roadwork"), "with roadwork"], [count("none"), "without"], [count("unsure"), "too near to call"],
    [count("wrong"), "not answered"]].filter(([number]) => number).map(([number, text]) => `${number} ${text}`);
  const done = answered.length === cards.length;
  const head = done ? `${cards.length} ${cards.length === 1 ? "photo" : "photos"}` : `${answered.length} of ${cards.length} photos`;
  byId("progress").textContent = parts.length ? `${head}: ${parts.join(", ")}` : `${head} …`;
  byId("bar").hidden = cards.length === 0;
  byId("look-all").hidden = !done || answered.length - count("wrong") < 2;
}

function add(files) {
  const added = files.map((file) => new Card(file, model));
  cards.push(...added);
  waiting.push(...added);
  byId("cards").append(...added.map((card) => card.element));
  showProgress();
  work();
}

async function work() {
  if (isBusy) return;
  isBusy = true;
  while (waiting.length) {
    const portion = inPortions(waiting, limits)[0];
    waiting = waiting.slice(portion.length);
    const [answers] = await Promise.all([ask(portion), ...portion.map((card) => card.drawThumbnail())]);
    portion.forEach((card, index) => {
      if (!cards.includes(card)) return; // cleared meanwhile
      card.show(answers[index]);
      addSpot(card);
    });
    fitSpots();
    showProgress();
  }
  isBusy = false;
}

// One answer or error for each; what a whole portion is refused for is said on each of its photos.
async function ask(portion) {
  if (isTooLarge(portion[0].file, limits)) {
    const size = megabytes(portion[0].file.size);
    return [{ error: `The file has ${size}; at most ${megabytes(limits.max_bytes)} are allowed. Send a smaller one.` }];
  }
  const files = portion.map((card) => card.file);
  try {
    return await predict(files);
  } catch (error) {
    return files.map(() => ({ error: error.message }));
  }
}

async function showAllLooks() {
  const button = byId("look-all");
  const wanted = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(wanted));
  for (const card of cards.filter(({ answer }) => answer && !answer.error)) {
    if ((button.getAttribute("aria-pressed") === "true") !== wanted) return; // pressed again meanwhile
    await card.showLook(wanted);
  }
}

function clear() {
  cards.forEach((card) => card.remove());
  cards = [];
  waiting = [];
  clearSpots();
  byId("look-all").setAttribute("aria-pressed", "false");
  showProgress();
  byId("files").focus();
}

function takeDrops() {
  const drop = byId("drop");
  // The whole window takes them: a photo dropped beside the field would else replace the page.
  window.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add([...event.dataTransfer.files]);
  });
}

describe();
takeDrops();
byId("files").addEventListener("change", (event) => { add([...event.target.files]); event.target.value = ""; });
byId("look-all").addEventListener("click", showAllLooks);
byId("clear").addEventListener("click", clear);
document.body.dataset.ready = "yes";
