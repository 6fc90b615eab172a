// An LLM server's answer as it comes: the events of a stream (text/event-stream, as the HTML standard
// has it) that OpenAI's dialect speaks. It shows nothing; it tells whoever asked.

/** What was refused, or broke: `status` 0 where no answer came, `isCut` where one had begun. */
export class Trouble extends Error {
  constructor(status, code, message, more = {}) {
    super(message);
    Object.assign(this, { status, code, isCut: false, retrySeconds: 1 }, more);
  }
}

async function refusalOf(answer) {
  const told = await answer.json().catch(() => ({}));
  const error = typeof told.error === "object" && told.error ? told.error : {};
  return new Trouble(answer.status, String(error.code ?? ""), String(error.message ?? answer.status), {
    retrySeconds: Number(answer.headers.get("Retry-After")) || 1,
  });
}

/** What is left of the caller's limits, as far as an answer tells: [kind, left, most]. */
export function leftOf(headers) {
  return ["requests", "tokens"]
    .map((kind) => [kind, headers.get(`x-ratelimit-remaining-${kind}`), headers.get(`x-ratelimit-limit-${kind}`)])
    .filter(([, left, most]) => left !== null && most !== null);
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r/);
    rest = lines.pop();
    yield* lines;
  }
}

function wordOf(data) {
  const told = JSON.parse(data);
  if (told.error) {
    const error = told.error;
    throw new Trouble(200, String(error.code ?? ""), String(error.message ?? error), { isCut: true });
  }
  const choice = told.choices?.[0] ?? {};
  return { text: choice.delta?.content ?? "", finish: choice.finish_reason ?? null };
}

async function* wordsOf(body) {
  for await (const line of linesOf(body)) {
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "[DONE]") return;
    yield wordOf(data);
  }
  throw new Trouble(200, "", "", { isCut: true });
}

/** Ask, and tell each word as it comes; the reason at the end ("stop", "length"). Throws `Trouble`. */
export async function ask(body, signal, told) {
  let answer;
  try {
    answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream, application/json" },
      body: JSON.stringify({ ...body, stream: true }),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Trouble(0, "", String(error.message));
  }
  told.head(answer.headers);
  if (!answer.ok) throw await refusalOf(answer);
  let finish = null;
  try {
    for await (const word of wordsOf(answer.body)) {
      if (word.text) told.text(word.text);
      finish = word.finish ?? finish;
    }
  } catch (error) {
    if (signal.aborted || error instanceof Trouble) throw error;
    throw new Trouble(200, "", "", { isCut: true });
  }
  return finish;
}
