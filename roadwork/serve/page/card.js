// A card: thumbnail and prediction of one photo. File names are inserted as text, never as HTML.

import { look } from "./api.js";

const THUMBNAIL = 640; // pixels of its longer side
const template = document.getElementById("card");

export function percent(share, near = NaN) {
  if (share < 0.005) return "under 1\u00a0%";
  if (share >= 0.995) return "over 99\u00a0%";
  const digits = Math.abs(share - near) < 0.01 ? 1 : 0; // one decimal near the threshold: 45.2 is above 45
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

export class Card {
  constructor(file, model) {
    this.file = file;
    this.model = model;
    this.element = template.content.cloneNode(true).firstElementChild;
    this.part("name").textContent = file.name;
    this.button = this.part("look-one");
    this.button.addEventListener("click", () => this.showLook(this.button.getAttribute("aria-pressed") !== "true"));
  }

  part(name) {
    return this.element.querySelector(`.${name}`);
  }

  async drawThumbnail() {
    const canvas = this.element.querySelector("canvas");
    try {
      const picture = await createImageBitmap(this.file);
      const shrink = Math.min(1, THUMBNAIL / Math.max(picture.width, picture.height));
      canvas.width = Math.max(1, Math.round(shrink * picture.width));
      canvas.height = Math.max(1, Math.round(shrink * picture.height));
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      picture.close();
    } catch {
      this.part("picture").classList.add("blank");
    }
  }

  // answer: {label, probability, abstain, ...} or {error}.
  show(answer) {
    this.answer = answer;
    this.element.classList.replace("waiting", this.kind());
    if (answer.error) {
      this.part("verdict").textContent = "No prediction";
      this.part("detail").textContent = answer.error;
      return;
    }
    const { threshold, abstain_low: low, abstain_high: high } = this.model;
    const leaning = answer.label === "Roadwork" ? "Roadwork" : "No roadwork";
    this.part("verdict").textContent = answer.abstain ? "Undecided" : leaning;
    this.part("detail").textContent = `${percent(answer.probability, threshold)} probability of roadwork`;
    this.part("fill").style.width = percent100(answer.probability);
    this.part("mark").style.left = percent100(threshold);
    if (low !== null && high !== null) {
      this.part("band").style.left = percent100(low);
      this.part("band").style.width = percent100(high - low);
    }
    this.part("meter").hidden = false;
    this.part("scale").hidden = false;
    this.part("scale").textContent = `Threshold: ${percent(threshold)} (vertical line)`;
    this.part("picture").title = this.file.name;
    this.button.hidden = false;
  }

  kind() {
    if (this.answer.error) return "wrong";
    if (this.answer.abstain) return "unsure";
    return this.answer.label === "Roadwork" ? "roadwork" : "none";
  }

  async showLook(wanted) {
    const picture = this.part("look");
    this.button.setAttribute("aria-pressed", String(wanted));
    if (wanted && !this.lookUrl) await this.fetchLook();
    picture.hidden = !this.lookUrl || this.button.getAttribute("aria-pressed") !== "true";
  }

  async fetchLook() {
    this.button.disabled = true;
    this.button.textContent = "Computing …";
    try {
      this.lookUrl = URL.createObjectURL(await look(this.file));
      const picture = this.part("look");
      picture.src = this.lookUrl;
      picture.alt = `Saliency map of ${this.file.name}: evidence for roadwork in red`;
      await picture.decode();
      this.button.textContent = "Show saliency";
    } catch (error) {
      this.button.textContent = "Show saliency";
      this.button.setAttribute("aria-pressed", "false");
      this.part("scale").textContent = error.message;
    }
    this.button.disabled = false;
  }

  remove() {
    if (this.lookUrl) URL.revokeObjectURL(this.lookUrl);
    this.element.remove();
  }
}

function percent100(share) {
  return `${100 * share}%`;
}
