// Elements made by hand: text always goes in as text, so nothing from a user, a file or the server can become markup.
import { translate } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element; `props` are attributes, but `on` (listeners), `t` and `tLabel` (translated text and aria-label). */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same in SVG. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name === "t") translate(node, ...[value].flat());
    else if (name === "tLabel") translate(node, ...[value].flat(), "aria-label");
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** One of the icons of index.html. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true", viewBox: "0 0 24 24" }, svg("use", { href: `#i-${name}` }));
}

/** A button with an icon and a translated word. */
export function button(word, { icon: name, kind = "", onclick, ...props } = {}) {
  const parts = [name ? icon(name) : null, el("span", { t: word })];
  return el("button", { type: "button", class: `button ${kind}`, on: { click: onclick }, ...props }, ...parts);
}

/** A translated option of a select, or a plain one. */
export const option = (value, text) => el("option", { value }, text);
