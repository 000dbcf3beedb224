// Files in portions that the server takes: a few at a time, so that answers come in as they are found.

const MOST = 8;
const FORM_BYTES = 2000; // of a file's part of the form, beside the file

// A file that is too large for any portion is one of its own; the server is not asked about it (see isTooLarge).
export function inPortions(cards, limits) {
  const portions = [];
  let bytes = 0;
  for (const card of cards) {
    const size = card.file.size + FORM_BYTES;
    const last = portions.at(-1);
    if (last && last.length < Math.min(MOST, limits.max_images) && bytes + size <= limits.max_bytes) {
      last.push(card);
      bytes += size;
    } else {
      portions.push([card]);
      bytes = size;
    }
  }
  return portions;
}

export function isTooLarge(file, limits) {
  return file.size + FORM_BYTES > limits.max_bytes;
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}
