// The overview without a reload: what the page says, asked again and again; and, for who has the class
// metrics, what the gateway that answers has counted in between. Whole without scripts.

const EVERY_MS = 2000;
const place = document.getElementById("live-figures");
const number = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 1 });
let before = null;

// What is no refusal of the caller's request, but that it could not be served; the rest is.
const ERRORS = [
  "internal_error", "upstream_unavailable", "upstream_failed", "upstream_refused",
  "upstream_redirected", "not_ready", "upstream_timeout",
];

function kindOf(labels) {
  const decision = labels.match(/decision="([^"]*)"/)?.[1];
  if (decision === "allowed" || decision === "redirected") return decision;
  return ERRORS.includes(decision?.replace(/^cut_/, "")) ? "errors" : "refused";
}

function valuesOf(text) {
  const found = { allowed: 0, redirected: 0, refused: 0, errors: 0, tokens: 0, in_flight: 0 };
  for (const [, name, labels, value] of text.matchAll(/^(\w+)(?:\{([^}]*)\})? (\S+)/gm)) {
    if (name === "portero_decisions_total") found[kindOf(labels)] += Number(value);
    if (name === "gen_ai_client_token_usage_sum") found.tokens += Number(value);
    if (name === "portero_llm_server_in_flight") found.in_flight += Number(value);
  }
  return found;
}

function show(now, seconds) {
  for (const one of place.querySelectorAll("[data-figure]")) {
    const name = one.dataset.figure;
    const value = name === "in_flight" ? now[name] : Math.max(0, now[name] - before[name]) / seconds;
    one.textContent = number.format(value);
  }
  place.hidden = false;
}

async function lookAgain() {
  const answer = await fetch(location.pathname, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { figures } = await answer.json();
  for (const one of document.querySelectorAll("[data-says]")) {
    const says = figures[one.dataset.says];
    if (says && says !== one.textContent) one.textContent = says;
  }
}

async function look() {
  if (!place) return;
  const answer = await fetch(place.dataset.metrics);
  if (!answer.ok) return;
  const now = valuesOf(await answer.text());
  const at = performance.now();
  if (before) show(now, (at - before.at) / 1000);
  before = { ...now, at };
}

async function keepLooking() {
  if (!document.hidden) await Promise.allSettled([look(), lookAgain()]);
  setTimeout(keepLooking, EVERY_MS);
}

keepLooking();
