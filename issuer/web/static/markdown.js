// A model's answer as something to read. An answer is hostile input: it becomes markup by markdown-it,
// which lets no HTML through, and what comes of that passes DOMPurify with the short lists below. No
// picture, no form, no style, no name and no address but the web's ever leaves here.

import MarkdownIt from "./markdown-it.js";
import DOMPurify from "./purify.js";

const TAGS = ["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol",
  "p", "pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"];
const RULES = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "start"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};
// What turns the order of letters about, so that code reads otherwise than it runs (CVE-2021-42574).
const TURNING = /[\u202A-\u202E\u2066-\u2069]/g;
const REPLACEMENT = "\uFFFD";

const markdown = new MarkdownIt({ html: false, linkify: true, maxNesting: 20 });
markdown.disable("image");
// Alignment is told by an inline style, which the page's policy forbids.
for (const cell of ["th_open", "td_open"]) {
  markdown.renderer.rules[cell] = (tokens, at, options, _, self) => {
    tokens[at].attrs = null;
    return self.renderToken(tokens, at, options);
  };
}
// The language of a block of code would be a class, and could be one of ours.
markdown.renderer.rules.fence = (tokens, at) =>
  `<pre><code>${markdown.utils.escapeHtml(tokens[at].content)}</code></pre>\n`;

function tameLink(link) {
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
}

function frameTable(table) {
  const frame = document.createElement("div");
  frame.className = "wide";
  table.replaceWith(frame);
  frame.append(table);
}

/** What to show of an answer: a fragment of the document. */
export function rendered(text) {
  const fragment = DOMPurify.sanitize(markdown.render(text.replace(TURNING, REPLACEMENT)), RULES);
  fragment.querySelectorAll("a[href]").forEach(tameLink);
  fragment.querySelectorAll("table").forEach(frameTable);
  fragment.querySelectorAll("p, li, h1, h2, h3, h4, h5, h6, td, th, blockquote").forEach((one) => { one.dir = "auto"; });
  return fragment;
}
