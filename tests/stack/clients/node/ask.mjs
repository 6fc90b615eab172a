// The Node clients, each asked in the same two ways: for one answer, and for a stream of pieces.
//
// It reads one question a line, {client, way, gateway, token, model, retries}, and says one line a
// piece, {piece}, then {end: true}, or {error: {names, status, message}}; names are those of the
// error's class and of all it descends from. They are made as their own documentation makes them.

import { createInterface } from "node:readline";

const HI = [{ role: "user", content: "hi" }];

const openai = async ({ gateway, token, retries }) => {
  const { default: OpenAI } = await import("openai");
  return new OpenAI({ baseURL: `${gateway}/v1`, apiKey: token, maxRetries: retries });
};

const anthropic = async ({ gateway, token, retries }) => {
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  return new Anthropic({ baseURL: gateway, authToken: token, apiKey: null, maxRetries: retries });
};

const ollama = async ({ gateway, token }) => {
  const { Ollama } = await import("ollama");
  return new Ollama({ host: gateway, headers: { Authorization: `Bearer ${token}` } });
};

const vercel = async ({ gateway, token, model, retries }) => {
  const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
  const portero = createOpenAICompatible({
    name: "portero", baseURL: `${gateway}/v1`, apiKey: token,
  });
  return { model: portero(model), prompt: "hi", maxRetries: retries };
};

const langchainOpenai = async ({ gateway, token, model, retries }) => {
  const { ChatOpenAI } = await import("@langchain/openai");
  const configuration = { baseURL: `${gateway}/v1` };
  return new ChatOpenAI({ model, apiKey: token, maxRetries: retries, configuration });
};

const langchainAnthropic = async ({ gateway, token, model, retries }) => {
  const { ChatAnthropic } = await import("@langchain/anthropic");
  return new ChatAnthropic({
    model, apiKey: token, anthropicApiUrl: gateway, maxRetries: retries, maxTokens: 9,
  });
};

async function* langchainPieces(chat) {
  for await (const event of await chat.stream("hi")) yield event.text;
}

const CLIENTS = {
  openai: {
    async plain(asked) {
      const request = { model: asked.model, messages: HI };
      const answer = await (await openai(asked)).chat.completions.create(request);
      return answer.choices[0].message.content;
    },
    async *streamed(asked) {
      const request = { model: asked.model, messages: HI, stream: true };
      const events = await (await openai(asked)).chat.completions.create(request);
      for await (const event of events) yield event.choices[0].delta.content;
    },
  },
  "openai, responses": {
    async plain(asked) {
      const request = { model: asked.model, input: "hi" };
      return (await (await openai(asked)).responses.create(request)).output_text;
    },
    async *streamed(asked) {
      const request = { model: asked.model, input: "hi", stream: true };
      for await (const event of await (await openai(asked)).responses.create(request)) {
        if (event.type === "response.output_text.delta") yield event.delta;
      }
    },
  },
  anthropic: {
    async plain(asked) {
      const request = { model: asked.model, messages: HI, max_tokens: 9 };
      return (await (await anthropic(asked)).messages.create(request)).content[0].text;
    },
    async *streamed(asked) {
      const request = { model: asked.model, messages: HI, max_tokens: 9, stream: true };
      for await (const event of await (await anthropic(asked)).messages.create(request)) {
        if (event.type === "content_block_delta") yield event.delta.text;
      }
    },
  },
  ollama: {
    async plain(asked) {
      const answer = await (await ollama(asked)).chat({ model: asked.model, messages: HI });
      return answer.message.content;
    },
    async *streamed(asked) {
      const request = { model: asked.model, messages: HI, stream: true };
      for await (const event of await (await ollama(asked)).chat(request)) {
        yield event.message.content;
      }
    },
  },
  ai: {
    async plain(asked) {
      const { generateText } = await import("ai");
      return (await generateText(await vercel(asked))).text;
    },
    async *streamed(asked) {
      const { streamText } = await import("ai");
      // Its textStream ends without a word where it fails; fullStream tells.
      const stream = streamText({ ...(await vercel(asked)), onError() {} });
      for await (const part of stream.fullStream) {
        if (part.type === "error") throw part.error;
        if (part.type === "text-delta") yield part.text;
      }
    },
  },
  "@langchain/openai": {
    plain: async (asked) => (await (await langchainOpenai(asked)).invoke("hi")).text,
    async *streamed(asked) { yield* langchainPieces(await langchainOpenai(asked)); },
  },
  "@langchain/anthropic": {
    plain: async (asked) => (await (await langchainAnthropic(asked)).invoke("hi")).text,
    async *streamed(asked) { yield* langchainPieces(await langchainAnthropic(asked)); },
  },
};

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function told(error) {
  const names = [error?.name];
  for (let one = Object(error); one; one = Object.getPrototypeOf(one)) {
    names.push(one.constructor?.name);
  }
  const status = error?.status ?? error?.statusCode ?? error?.status_code ?? null;
  return { names, status, message: String(error?.message ?? JSON.stringify(error)) };
}

async function answer({ client, way, ...asked }) {
  try {
    if (way === "plain") say({ piece: await CLIENTS[client].plain(asked) });
    else for await (const piece of CLIENTS[client].streamed(asked)) if (piece) say({ piece });
    say({ end: true });
  } catch (error) {
    say({ error: told(error) });
  }
}

// A promise that a library leaves behind must not end the others' questions.
process.on("unhandledRejection", () => {});
for await (const line of createInterface({ input: process.stdin })) await answer(JSON.parse(line));
process.exit(0);
