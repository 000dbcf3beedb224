// What the server is asked, and how often.

const RETRIES = 6;

export class Refused extends Error {}

export async function getFacts() {
  return (await fetch("model")).json();
}

// The answers for files, in order: {label, probability, ...} or {error}.
export async function predict(files) {
  const response = await post("predict", files);
  return (await response.json()).predictions;
}

// A picture of one file and where the network looked.
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
    if (!wait || attempt === RETRIES) throw new Refused(await reason(response));
    await new Promise((resolve) => { setTimeout(resolve, 1000 * wait); });
  }
}

async function send(path, body) {
  try {
    return await fetch(path, { method: "POST", body });
  } catch {
    throw new Refused("The server did not answer. Check that it runs, and send the photo again.");
  }
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}
