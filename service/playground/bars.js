// Bars of probability: the rows stay, only their lengths change.
import { el } from "./dom.js";
import { percent, plain } from "./words.js";

export class Bars {
  #rows = new Map();

  constructor(node) {
    this.node = node;
    node.classList.add("bars");
    node.setAttribute("role", "list");
  }

  /** `entries`: [name, probability] pairs, or null probabilities for "no answer yet". */
  show(entries) {
    const best = Math.max(...entries.map(([, value]) => value ?? 0));
    const names = new Set(entries.map(([name]) => name));
    for (const [name, row] of this.#rows) if (!names.has(name)) (row.item.remove(), this.#rows.delete(name));
    for (const [name, value] of entries) {
      const row = this.#rows.get(name) ?? this.#add(name);
      row.fill.style.setProperty("--share", String(value ?? 0));
      plain(row.value, value === null ? "" : percent(value));
      row.item.classList.toggle("best", value !== null && value === best && value > 0);
    }
  }

  #add(name) {
    const row = { fill: el("i"), value: el("span", { class: "value" }) };
    row.item = el("div", { role: "listitem", class: "bar-row" });
    row.item.append(
      el("span", { class: "name" }, name),
      el("span", { class: "track", "aria-hidden": "true" }, row.fill),
      row.value,
    );
    this.#rows.set(name, row);
    this.node.append(row.item);
    return row;
  }
}
