// Canaries: which model has one, and the fields that start one.
import { call } from "./api.js";
import { el } from "./dom.js";
import { number } from "./words.js";

export class CanaryBook {
  #running = new Map();

  /** Ask each model for its canary. */
  async load(names) {
    const answers = await Promise.all(names.map((name) => call({ path: `/models/${encodeURIComponent(name)}/canary` })));
    this.#running = new Map(names.map((name, index) => [name, answers[index].data.running]));
  }

  running(name) {
    return this.#running.get(name) ?? null;
  }

  chip(name) {
    const order = this.running(name);
    if (!order) return null;
    const text = order.mode === "shadow" ? "version {version} runs in the shadow of {p} %" : "version {version} answers {p} %";
    return el("span", { class: "chip running", t: [text, { version: order.version, p: () => number(order.percent) }] });
  }
}

/** The fields of the question, and what they say. */
export function canaryFields() {
  const percent = el("input", { type: "number", min: "1", max: "100", step: "1", value: "10", required: true });
  const mode = el("select", {}, el("option", { value: "split", t: "split: they get its answer" }), el("option", { value: "shadow", t: "shadow: its answer is only compared" }));
  const nodes = [
    el("label", { class: "field" }, el("span", { t: "Percent of the requests" }), percent),
    el("label", { class: "field" }, el("span", { t: "Mode" }), mode),
  ];
  return { nodes, values: () => ({ percent: Number(percent.value), mode: mode.value }) };
}
