// The chat: what is asked and answered, and what this browser keeps of it. It asks the gateway as any
// program does, with the reader's cookie; it renews nothing by itself, and makes markup of a text by
// markdown.js alone.

import { ask, leftOf, Trouble } from "./answer.js";
import { Conversations } from "./conversations.js";
import { rendered } from "./markdown.js";
import { copy, timeOf } from "./page.js";

const WARN_SECONDS = 90;
const DRAW_MS = 80;
const LARGEST_IMAGE = 10 * 1024 * 1024;

const $ = (id) => document.getElementById(id);
const place = $("chat");
const texts = JSON.parse(place.dataset.texts);
const kept = new Conversations(place.dataset.subject);
const draft = `portero.draft.${place.dataset.subject}`;

let current = fresh();
let pictures = [];
// The answer that comes: {conversation, message, former, controller}.
let running = null;

function say(name, values = {}) {
  return texts[name].replace(/\{(\w+)\}/g, (_, word) => String(values[word] ?? ""));
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function fresh() {
  return { id: String(Date.now()) + Math.random().toString(36).slice(2), title: "", system: "", messages: [] };
}

// What is shown

function copyButton(text) {
  const button = element("button", { type: "button", className: "button quiet small", textContent: say("copy") });
  button.addEventListener("click", () => copy(text(), button, say("copied")));
  return button;
}

function frameCode(code) {
  const frame = element("div", { className: "copied" });
  code.replaceWith(frame);
  frame.append(code, copyButton(() => code.textContent));
}

function pictureOf(url) {
  return element("img", { src: url, alt: say("image") });
}

function fill(article, message) {
  const body = article.querySelector(".said");
  if (message.role === "user") {
    body.replaceChildren(element("p", { className: "plain-text", dir: "auto", textContent: message.text }),
      ...message.images.map(pictureOf));
    return;
  }
  body.replaceChildren(rendered(message.text));
  body.querySelectorAll("pre").forEach(frameCode);
}

function articleOf(message) {
  const name = message.role === "user" ? say("you") : message.model;
  const article = element("article", { className: `message ${message.role}` },
    element("h2", { className: "from", textContent: name, dir: "auto" }), element("div", { className: "said" }));
  fill(article, message);
  if (message.role === "assistant") article.append(copyButton(() => message.text));
  return article;
}

function showConversation() {
  $("log").replaceChildren(...current.messages.map(articleOf));
  $("system").value = current.system;
  $("again").hidden = current.messages.length === 0;
  clearTrouble();
  showList();
  toEnd();
}

function toEnd() {
  $("log").scrollTop = $("log").scrollHeight;
}

function showList() {
  $("conversations").replaceChildren(...kept.all().map((one) => {
    const button = element("button", { type: "button", className: "link", textContent: one.title || say("untitled"), dir: "auto" });
    if (one.id === current.id) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => openKept(one.id));
    return element("li", {}, button);
  }));
}

// The current one is open already, and what is kept of it may be less: its answer may be coming.
function openKept(id) {
  if (id === current.id) return;
  const found = kept.find(id);
  if (!found) return showList(); // another page of this browser deleted it
  stop();
  current = found;
  showConversation();
}

function showLeft(headers) {
  const left = leftOf(headers).map(([kind, count, most]) => say(`left_${kind}`, { left: count, most }));
  if (left.length) $("left").textContent = say("left", { what: left.join(", ") });
}

// What went wrong

function clearTrouble() {
  $("trouble").replaceChildren();
}

function signIn() {
  const link = element("a", { className: "button", href: `${place.dataset.login}?next=/`, textContent: say("sign_in") });
  link.addEventListener("click", keepDraft);
  return link;
}

function wordsOf(trouble) {
  if (trouble.isCut) {
    const isOver = ["invalid_api_key", "expired"].includes(trouble.code);
    return say("trouble_cut", { why: isOver ? say("ended") : trouble.message || say("cut_connection") });
  }
  if (trouble.status === 0) return say("trouble_network");
  if (trouble.code === "insufficient_quota") return say("trouble_quota", { why: trouble.message });
  const name = `trouble_${trouble.status}`;
  return say(name in texts ? name : "trouble_other", { why: trouble.message, seconds: trouble.retrySeconds });
}

function showTrouble(trouble) {
  const isOver = trouble.status === 401 || trouble.code === "invalid_api_key";
  const words = element("p", { textContent: wordsOf(trouble) });
  $("trouble").replaceChildren(words, ...(isOver ? [signIn()] : []));
  if (isOver) keepDraft();
}

// The session

function watchSession() {
  const { expires, now, login } = place.dataset;
  if (!login) return;
  const ends = Date.now() + (Number(expires) - Number(now)) * 1000;
  const warn = () => {
    const isOver = Date.now() >= ends;
    const text = isOver ? say("ended") : say("ending", { time: timeOf(Number(expires)) });
    $("ending").replaceChildren(text, " ", signIn());
    $("ending").hidden = false;
    keepDraft();
  };
  setTimeout(warn, Math.max(0, ends - Date.now() - WARN_SECONDS * 1000));
  setTimeout(warn, Math.max(0, ends - Date.now()));
}

// The text that a sign-in must not lose is kept until this tab is closed.
function keepDraft() {
  const fields = Object.fromEntries(["message", "system", "temperature", "model"].map((id) => [id, $(id).value]));
  try {
    sessionStorage.setItem(draft, JSON.stringify({ ...fields, id: current.id }));
  } catch { /* a browser without room keeps less */ }
}

function takeDraft() {
  const found = sessionStorage.getItem(draft);
  if (!found) return "";
  sessionStorage.removeItem(draft);
  const fields = JSON.parse(found);
  current = kept.find(fields.id) ?? current;
  showConversation();
  for (const id of ["message", "system", "temperature"]) $(id).value = fields[id] ?? "";
  return fields.model ?? "";
}

// Asking

function contentOf(message) {
  if (!message.images?.length) return message.text;
  const images = message.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return [{ type: "text", text: message.text }, ...images];
}

function bodyOf(conversation) {
  const system = conversation.system.trim();
  const asked = conversation.messages.map((one) => ({ role: one.role, content: contentOf(one) }));
  const temperature = $("temperature").value;
  return {
    model: $("model").value,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...asked],
    ...(temperature === "" ? {} : { temperature: Number(temperature) }),
  };
}

function setRunning(answering) {
  running = answering;
  $("log").setAttribute("aria-busy", String(Boolean(answering)));
  $("stop").hidden = !answering;
  $("send").disabled = Boolean(answering);
  $("again").hidden = Boolean(answering) || current.messages.length === 0;
}

// An answer that grows is drawn a few times a second, and read aloud when it is whole.
function drawing(article, message) {
  let timer = null;
  const draw = () => {
    timer = null;
    const log = $("log");
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    fill(article, message);
    if (follows) toEnd();
  };
  return {
    soon: () => { timer ??= setTimeout(draw, DRAW_MS); },
    now: () => { clearTimeout(timer); draw(); },
  };
}

// A conversation with what has come of its answer; until a word has, with the former one.
function soFar({ conversation, message, former }) {
  return { ...conversation, messages: [...conversation.messages, ...(message.text ? [message] : former)] };
}

// What is asked is kept at once, and what has come of its answer when the page is left.
function keepRunning() {
  if (running) kept.keep(soFar(running));
}

async function answer(former = []) {
  const message = { role: "assistant", text: "", images: [], model: $("model").value };
  const controller = new AbortController();
  const answering = { conversation: current, message, former, controller };
  const article = articleOf(message);
  const drawn = drawing(article, message);
  clearTrouble();
  setRunning(answering);
  keepRunning();
  showList();
  $("log").append(article);
  $("left").textContent = say("thinking");
  toEnd();
  try {
    const finish = await ask(bodyOf(answering.conversation), controller.signal, {
      head: (headers) => { $("left").textContent = say("thinking"); showLeft(headers); },
      text: (text) => { message.text += text; drawn.soon(); },
    });
    if ($("left").textContent === say("thinking")) $("left").textContent = say("answered");
    if (finish === "length") $("left").textContent = say("cut_length");
  } catch (error) {
    if (running === answering) tellOf(error, controller);
  } finally {
    drawn.now();
    if (running === answering) settle(answering, article);
  }
}

function settle(answering, article) {
  const { conversation, message, former } = answering;
  if (!message.text) article.replaceWith(...former.map(articleOf));
  conversation.messages = soFar(answering).messages;
  setRunning(null);
  if (!kept.keep(conversation)) $("left").textContent = say("not_kept");
  showList();
}

function tellOf(error, controller) {
  if (controller.signal.aborted) {
    $("left").textContent = say("stopped");
    return;
  }
  $("left").textContent = "";
  showTrouble(error instanceof Trouble ? error : new Trouble(0, "", String(error.message)));
}

function send(event) {
  event.preventDefault();
  const text = $("message").value.trim();
  if (running || !text) return;
  const message = { role: "user", text, images: pictures.map((one) => one.url) };
  current.title ||= text.slice(0, 60);
  current.system = $("system").value;
  current.messages.push(message);
  $("log").append(articleOf(message));
  $("message").value = "";
  setPictures([]);
  answer();
}

function again() {
  if (running) return;
  const asked = current.messages.findLastIndex((one) => one.role === "user");
  const former = current.messages.splice(asked + 1);
  current.system = $("system").value;
  showConversation();
  answer(former);
}

function stop() {
  running?.controller.abort();
}

// Images

function setPictures(list) {
  pictures = list;
  $("pictures").hidden = list.length === 0;
  $("pictures").replaceChildren(...list.map((one) => {
    const name = say("remove_image", { name: one.name });
    const button = element("button", { type: "button", className: "button quiet small", textContent: "×", ariaLabel: name });
    button.addEventListener("click", () => setPictures(pictures.filter((other) => other !== one)));
    return element("li", {}, pictureOf(one.url), button);
  }));
}

function readPicture(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done({ name: file.name, url: String(reader.result) });
    reader.onerror = failed;
    reader.readAsDataURL(file);
  });
}

async function addPictures() {
  const files = [...$("image").files];
  const small = files.filter((file) => file.size <= LARGEST_IMAGE);
  if (small.length < files.length) showTrouble(new Trouble(413, "", ""));
  setPictures([...pictures, ...await Promise.all(small.map(readPicture))]);
  $("image").value = "";
}

// The beginning

async function loadModels(wanted) {
  const reply = await fetch("/v1/models");
  if (!reply.ok) throw new Trouble(reply.status, "", "");
  const names = (await reply.json()).data.map((one) => one.id);
  $("model").replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
  if (names.includes(wanted)) $("model").value = wanted;
  if (!names.length) $("trouble").replaceChildren(element("p", { textContent: say("no_models") }));
}

function deleteAll() {
  if (!confirm(say("delete_sure"))) return;
  stop();
  setRunning(null); // a stopped answer ends later than this, and would keep its conversation again
  kept.deleteAll();
  current = fresh();
  showConversation();
  $("left").textContent = say("deleted");
}

function begin() {
  stop();
  current = fresh();
  showConversation();
  $("message").focus();
}

$("ask").addEventListener("submit", send);
$("stop").addEventListener("click", () => { stop(); $("message").focus(); });
$("again").addEventListener("click", again);
$("new").addEventListener("click", begin);
$("delete").addEventListener("click", deleteAll);
$("image").addEventListener("change", addPictures);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

window.addEventListener("pagehide", keepRunning);
document.addEventListener("visibilitychange", () => { if (document.hidden) keepRunning(); });

$("no-script").remove();
showList();
watchSession();
loadModels(takeDraft()).catch((error) => showTrouble(error instanceof Trouble ? error : new Trouble(0, "", "")));
