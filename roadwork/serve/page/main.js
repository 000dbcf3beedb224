// Predicts photos batch by batch and shows a card for each.

import { getFacts, getFamiliarity, predict } from "./api.js";
import { Card, percent } from "./card.js";
import { addSpot, clearSpots, fitSpots } from "./map.js";
import { splitIntoBatches, isTooLarge, megabytes } from "./batches.js";

const byId = (id) => document.getElementById(id);
const facts = await getFacts();
const { model, limits } = facts;
let cards = [];
let waiting = [];
let isBusy = false;

function describe() {
  const prior = model.prior === null ? "" : ` The probabilities assume that ${percent(model.prior)} of photos show roadwork.`;
  const unsure = model.abstain_low === null ? ""
    : ` Predictions from ${percent(model.abstain_low, model.threshold)} to ${percent(model.abstain_high, model.threshold)} are undecided.`;
  byId("model").textContent =
    `Model “${model.name}” predicts roadwork from a probability of ${percent(model.threshold)}.${prior}${unsure}`;
  byId("limits").textContent =
    `JPEG, PNG or WebP, up to ${megabytes(limits.max_bytes)} and ${Math.round(limits.max_pixels / 1e6)} megapixels each`;
}

function showProgress() {
  const answered = cards.filter((card) => card.answer);
  const count = (kind) => answered.filter((card) => card.kind() === kind).length;
  const parts = [[count("roadwork"), "with roadwork"], [count("none"), "without"], [count("unsure"), "undecided"],
    [count("wrong"), "failed"]].filter(([number]) => number).map(([number, text]) => `${number} ${text}`);
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

// A line about the latest photos of all clients, where they can be judged.
async function showFamiliarity() {
  const line = byId("familiarity");
  try {
    const found = await getFamiliarity();
    line.hidden = found.verdict === "unknown" || !cards.length;
    if (line.hidden) return;
    const looks = found.verdict === "familiar" ? "look like" : "do not look like";
    const differs = found.differs.length ? ` They differ most in ${found.differs.join(", ")}.` : "";
    line.textContent = `The server's latest ${found.n} photos ${looks} the training photos `
      + `(AUC ${found.auc.toFixed(2)}, usual up to ${found.threshold.toFixed(2)}).${differs}`;
  } catch {
    line.hidden = true;
  }
}

async function work() {
  if (isBusy) return;
  isBusy = true;
  while (waiting.length) {
    const batch = splitIntoBatches(waiting, limits)[0];
    waiting = waiting.slice(batch.length);
    const [answers] = await Promise.all([ask(batch), ...batch.map((card) => card.drawThumbnail())]);
    batch.forEach((card, index) => {
      if (!cards.includes(card)) return; // cleared meanwhile
      card.show(answers[index]);
      addSpot(card);
    });
    fitSpots();
    showProgress();
  }
  isBusy = false;
  await showFamiliarity();
}

// One prediction or error per photo; if a whole batch is rejected, each of its photos gets the error.
async function ask(batch) {
  if (isTooLarge(batch[0].file, limits)) {
    const size = megabytes(batch[0].file.size);
    return [{ error: `The file has ${size}; at most ${megabytes(limits.max_bytes)} are allowed. Use a smaller one.` }];
  }
  const files = batch.map((card) => card.file);
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
  byId("familiarity").hidden = true;
  showProgress();
  byId("files").focus();
}

function takeDrops() {
  const drop = byId("drop");
  // The whole window accepts drops, because a photo dropped beside the field would replace the page.
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
