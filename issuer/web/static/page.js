// What a click saves on pages that are whole without it: Copy, times in the reader's zone, the names
// of the models, what is left of a minute's limits. It must never make markup of a text.

const SHORT_MS = 1500;
const zoned = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });

// Browsers let pages of plain HTTP copy in this old way alone.
function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.readOnly = true;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

export async function copy(text, button, done) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
    button.focus();
  }
  const name = button.textContent;
  if (!done || name === done) return;
  button.textContent = done;
  setTimeout(() => { button.textContent = name; }, SHORT_MS);
}

export function timeOf(seconds) {
  return new Intl.DateTimeFormat(document.documentElement.lang, { timeStyle: "short" }).format(seconds * 1000);
}

function showTimes() {
  for (const one of document.querySelectorAll("time[data-seconds]")) {
    one.textContent = zoned.format(Number(one.dataset.seconds) * 1000);
  }
}

function offerCopies() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(document.getElementById(button.dataset.copy).textContent, button, "✓"));
  }
}

function showLeft(headers) {
  for (const one of document.querySelectorAll("[data-left]")) {
    const left = headers.get(`x-ratelimit-remaining-${one.dataset.left}`);
    const most = headers.get(`x-ratelimit-limit-${one.dataset.left}`);
    if (left !== null) one.textContent = one.dataset.text.replace("{left}", left).replace("{most}", most);
  }
}

// The issuer does not know which models there are, nor what is left of a minute; the gateway tells
// whoever asks.
async function nameModels() {
  const place = document.querySelector("[data-models]");
  if (!place) return;
  const answer = await fetch(place.dataset.models);
  if (!answer.ok) return;
  showLeft(answer.headers);
  const names = (await answer.json()).data.map((one) => one.id);
  if (!names.length) return;
  place.textContent = names.join(", ");
  for (const code of document.querySelectorAll(".copied code")) {
    code.textContent = code.textContent.replaceAll(/\bMODEL\b/g, () => names[0]);
  }
}

showTimes();
offerCopies();
document.getElementById("made")?.focus();
nameModels().catch(() => {});
