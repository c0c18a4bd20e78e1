// The call that a panel has just made, as a line for a shell.
import { byId, button, el } from "./dom.js";
import { key } from "./key.js";
import { urlOf } from "./api.js";
import { plain, translate } from "./words.js";

const LONGEST = 60_000;

/** A word that a POSIX shell takes as it is. */
export const quote = (text) =>
  /^[\w@%+=:,./?&-]+$/.test(text) && !/[?&]/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** The line for a request {method, path, json, type, file, base64, stream}. */
export function lineOf(request) {
  const parts = ["curl", request.stream ? "-sN" : "-s"];
  const method = request.method ?? "GET";
  if (method !== "GET" && !(method === "POST" && hasBody(request))) parts.push("-X", method);
  parts.push(quote(urlOf(request.path).href));
  if (key()) parts.push("-H", '"Authorization: Bearer $NEUROSERVE_KEY"');
  if (request.json !== undefined) parts.push("-H", quote("Content-Type: application/json"), ...dataOf(request));
  if (request.type)
    parts.push(
      "-H",
      quote(`Content-Type: ${request.type}`),
      "--data-binary",
      request.base64 ? "@-" : quote(`@${request.file}`),
    );
  const line = parts.join(" ");
  return request.base64 ? `echo ${request.base64} | base64 -d | ${line}` : line;
}

const hasBody = (request) => request.json !== undefined || Boolean(request.type);

function dataOf(request) {
  const text = JSON.stringify(request.json);
  return text.length <= LONGEST ? ["-d", quote(text)] : ["-d", "@request.json"];
}

/** The block in a panel: `show(request)` after each call. */
export class Curl {
  constructor(node) {
    this.code = el("code");
    this.copy = button("Copy", { icon: "copy", kind: "small", onclick: () => this.#copy(), disabled: true });
    const head = el("div", { class: "curl-head" }, el("h2", { t: "The same call in a shell" }), this.copy);
    const line = el("pre", { tabindex: "0", role: "region", tLabel: "The same call in a shell" }, this.code);
    node.append(head, line);
    translate(this.code, "It appears here with the first call.");
  }

  show(request) {
    plain(this.code, lineOf(request));
    this.copy.disabled = false;
  }

  async #copy() {
    await copyText(this.code.textContent);
    translate(this.copy.lastChild, "Copied");
    translate(byId("announce"), "Copied");
    setTimeout(() => translate(this.copy.lastChild, "Copy"), 1500);
  }
}

/** To the clipboard; pages that came over plain HTTP from another machine have no clipboard of their own. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "visually-hidden" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  return area.remove();
}
