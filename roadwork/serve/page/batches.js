// Splits files into batches within the server's limits. Small batches show predictions early.

const MAX_FILES = 8;
const FORM_BYTES = 2000; // form overhead per file

// A file above the limit is a batch of its own and is not sent (see isTooLarge).
export function splitIntoBatches(cards, limits) {
  const batches = [];
  let bytes = 0;
  for (const card of cards) {
    const size = card.file.size + FORM_BYTES;
    const last = batches.at(-1);
    if (last && last.length < Math.min(MAX_FILES, limits.max_images) && bytes + size <= limits.max_bytes) {
      last.push(card);
      bytes += size;
    } else {
      batches.push([card]);
      bytes = size;
    }
  }
  return batches;
}

export function isTooLarge(file, limits) {
  return file.size + FORM_BYTES > limits.max_bytes;
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}
