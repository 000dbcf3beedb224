// Requests to the server, with retries.

const RETRIES = 6;

export class RequestError extends Error {}

export async function getFacts() {
  return (await fetch("model")).json();
}

// Whether the server's latest photos look like the training photos: {verdict, auc, threshold, n, ...}.
export async function getFamiliarity() {
  return (await fetch("familiarity")).json();
}

// The predictions for files, in order: {label, probability, ...} or {error}.
export async function predict(files) {
  const response = await post("predict", files);
  return (await response.json()).predictions;
}

// An image of one file with its saliency map.
export async function look(file) {
  return (await post("look", [file])).blob();
}

async function post(path, files) {
  for (let attempt = 0; ; attempt += 1) {
    const form = new FormData();
    files.forEach((file) => form.append("images", file, file.name));
    const response = await send(path, form);
    if (response.ok) return response;
    const wait = Number(response.headers.get("retry-after"));
    if (!wait || attempt === RETRIES) throw new RequestError(await reason(response));
    await new Promise((resolve) => { setTimeout(resolve, 1000 * wait); });
  }
}

async function send(path, body) {
  try {
    return await fetch(path, { method: "POST", body });
  } catch {
    throw new RequestError("The server did not respond. Check that it is running, then send the photo again.");
  }
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The server responded with status ${response.status}.`;
  }
}
