// Canaries: which model has one, and the fields that start one.
import { call } from "./api.js";
import { el } from "./dom.js";
import { number, percent } from "./words.js";

export class CanaryBook {
  #running = new Map();

  /** Ask each model for its canary. */
  async load(names) {
    const answers = await Promise.all(
      names.map((name) => call({ path: `/models/${encodeURIComponent(name)}/canary` })),
    );
    this.#running = new Map(names.map((name, index) => [name, answers[index].data.running]));
  }

  running(name) {
    return this.#running.get(name) ?? null;
  }

  /** How the running canary does, in a few words. */
  shown(name) {
    const { mode, percent: share, figures, verdict } = this.running(name);
    const text = mode === "shadow" ? "in the shadow of {p} %" : "answers {p} %";
    const chip = el("span", { class: "chip running", t: [text, { p: () => number(share) }] });
    const values = { rows: () => number(figures.candidate.rows), agree: () => percent(figures.agreement ?? 0) };
    const told = figures.agreement === null ? "{rows} rows so far" : "{rows} rows so far, {agree} agree";
    const note = el("span", { class: "small soft", t: [told, values], title: verdict?.reason });
    return el("span", { class: "trial" }, chip, note);
  }
}

/** The fields of the question, and what they say. */
export function canaryFields() {
  const share = el("input", { type: "number", min: "1", max: "100", step: "1", value: "10", required: true });
  const mode = el(
    "select",
    {},
    el("option", { value: "split", t: "split: they get its answer" }),
    el("option", { value: "shadow", t: "shadow: its answer is only compared" }),
  );
  const nodes = [
    el("label", { class: "field" }, el("span", { t: "Percent of the requests" }), share),
    el("label", { class: "field" }, el("span", { t: "Mode" }), mode),
  ];
  return { nodes, values: () => ({ percent: Number(share.value), mode: mode.value }) };
}
