// One picture for each task: its models' live versions beside each other, the best first.
import { el } from "./dom.js";
import { number, percent } from "./words.js";

const TASKS = {
  digit: { word: "Digits: accuracy", field: "accuracy", more: true, text: (value) => percent(value, 2) },
  topic: { word: "Topics: accuracy", field: "accuracy", more: true, text: (value) => percent(value, 2) },
  forecast: {
    word: "Forecasts: mean squared error, less is better",
    field: "mse",
    more: false,
    text: (value) => number(value, 4),
  },
};

export function compare(node, models) {
  const figures = Object.entries(TASKS).map(([task, look]) => figure(task, look, models));
  node.replaceChildren(...figures.filter(Boolean));
}

function figure(task, { word, field, more, text }, models) {
  const rows = models
    .filter((model) => model.task === task)
    .map((model) => [model.name, model.versions.find((version) => version.live)?.metrics.test?.[field]])
    .filter(([, value]) => value !== undefined)
    .sort(([, a], [, b]) => (more ? b - a : a - b));
  if (!rows.length) return null;
  const values = rows.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const air = (high - low) * 0.25 || high * 0.1;
  const place = (value) => (value - low + air) / (high - low + 2 * air);
  const lines = rows.map(([name, value], index) => line(name, text(value), place(value), index === 0));
  return el("figure", {}, el("h3", { t: word }), el("div", { class: "dots", role: "list" }, ...lines));
}

function line(name, text, share, best) {
  const mark = el("i");
  mark.style.setProperty("--share", String(share));
  return el(
    "div",
    { role: "listitem", class: best ? "best" : "" },
    el("span", { class: "name" }, name),
    el("span", { class: "place", "aria-hidden": "true" }, mark),
    el("span", { class: "value" }, text),
  );
}
