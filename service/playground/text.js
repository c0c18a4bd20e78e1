// The text panel: what a headline is about, and the weight of each word under it.
import { Newest, call, settled } from "./api.js";
import { Bars } from "./bars.js";
import { Choice, announce } from "./catalog.js";
import { Curl } from "./curl.js";
import { byId, el } from "./dom.js";
import { Notice } from "./notice.js";
import { Warnings } from "./warnings.js";
import { number, percent, plain, translate } from "./words.js";

const REST_MS = 180;
const SAMPLES = [
  "Oil prices rise as supply fears grow",
  "Champions League final goes to extra time after late equaliser",
  "Probe sends first pictures from the far side of the Moon",
  "Peace talks resume after ceasefire holds for a second week",
];
const EMPTY = ["World", "Sports", "Business", "Sci/Tech"].map((name) => [name, null]);

class Text {
  #ask = new Newest();

  constructor() {
    this.input = byId("text-input");
    this.notice = new Notice(byId("text-notice"));
    this.curl = new Curl(byId("text-curl"));
    this.choice = new Choice(byId("text-choice"), "text", () => this.ask());
    this.label = el("output", { class: "big-out", for: "text-input" });
    this.sure = el("p", { class: "small soft sure" });
    const bars = el("div", { tLabel: "Probabilities" });
    this.warnings = new Warnings();
    byId("text-answer").append(this.label, this.sure, bars, this.warnings.node);
    this.bars = new Bars(bars);
    this.blank();
    this.input.addEventListener(
      "input",
      settled(() => this.ask(), REST_MS),
    );
    byId("text-samples").append(...SAMPLES.map((text) => this.sample(text)));
  }

  sample(text) {
    const use = () => {
      this.input.value = text;
      this.ask();
    };
    return el("button", { type: "button", class: "button sample", lang: "en", on: { click: use } }, text);
  }

  blank() {
    plain(this.label, "–");
    translate(this.sure, "nothing typed yet");
    this.warnings.show();
    this.bars.show(EMPTY);
    byId("text-words").replaceChildren();
    this.notice.clear();
  }

  async ask() {
    const text = this.input.value;
    if (!text.trim()) {
      this.#ask.stop();
      return this.blank();
    }
    const request = { method: "POST", path: "/predict/sequence", json: { text, ...this.choice.picked, explain: true } };
    try {
      const answer = await this.#ask.run((signal) => call(request, signal));
      if (!answer) return undefined;
      this.notice.clear();
      this.show(answer.data);
      return this.curl.show(request);
    } catch (error) {
      this.blank();
      return this.notice.problem(error, () => this.ask());
    }
  }

  show({ label, confidence, probabilities, explanation, warnings }) {
    plain(this.label, label);
    translate(this.sure, "{p} confident", { p: () => percent(confidence) });
    this.bars.show(Object.entries(probabilities));
    byId("text-words").replaceChildren(...explanation.words.map(wordOf));
    announce("It is about {label}.", { label });
    this.warnings.show(warnings);
  }
}

function wordOf({ text, weight }) {
  const bar = el("span", { class: "track", "aria-hidden": "true" }, el("i"));
  bar.firstChild.style.setProperty("--share", String(weight));
  return el(
    "span",
    { class: "word" },
    el("b", { lang: "en" }, text),
    bar,
    el("span", { class: "value" }, number(weight, 2)),
  );
}

export const startText = () => new Text();
