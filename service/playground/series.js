// The series panel: a CSV or the sample, the forecast with its band, and the truth where it is known.
import { Newest, call, send } from "./api.js";
import { Choice, announce } from "./catalog.js";
import { Chart, legend } from "./chart.js";
import { COLUMNS, iso, readSeries } from "./csv.js";
import { Curl } from "./curl.js";
import { byId, button, el } from "./dom.js";
import { Notice } from "./notice.js";
import { takeFiles } from "./pictures.js";
import { Warnings } from "./warnings.js";
import { locale, number, onLanguage, percent, plain, t, translate } from "./words.js";

const HOUR_MS = 3_600_000;
const HORIZON = 24;
const SHOWN = 120; // hours of history in the chart
const OT = COLUMNS.indexOf("OT");
const KEYS = [
  ["c", "history"],
  ["a", "forecast"],
  ["band", "band"],
  ["b", "truth"],
];

class Series {
  #ask = new Newest();
  #series = null;
  #view = null; // what is drawn: {past, ahead, lower, upper, truth, level} of points

  constructor() {
    this.notice = new Notice(byId("series-notice"));
    this.curl = new Curl(byId("series-curl"));
    this.chart = new Chart(byId("series-chart"));
    byId("series-chart").after(legend(KEYS));
    this.choice = new Choice(byId("series-choice"), "series", () => this.ask());
    this.warnings = new Warnings(byId("series-warnings"));
    for (const box of ["series-hold", "series-accept"]) byId(box).addEventListener("change", () => this.ask());
    const sample = button("Use the sample", { icon: "sample", kind: "primary", onclick: () => this.sample() });
    const file = button("CSV file", { icon: "file", onclick: () => byId("series-file").click() });
    const save = el("a", {
      class: "button",
      href: "playground/sample.csv",
      download: "sample.csv",
      t: "Download the sample",
    });
    byId("series-tools").append(sample, file, save);
    takeFiles(byId("series-drop"), byId("series-file"), (blob, name) => this.take(blob, name));
    onLanguage(() => this.#view && this.draw());
  }

  async sample() {
    try {
      const response = await send({ path: "/playground/sample.csv" });
      await this.take(response, "sample.csv");
    } catch (error) {
      this.notice.problem(error, () => this.sample());
    }
  }

  /** Read a file, or anything else with `text()`. */
  async take(source, name) {
    try {
      this.#series = { name, ...readSeries(await source.text()) };
    } catch (error) {
      this.notice.problem(error);
      return;
    }
    await this.ask();
  }

  /** What is sent, and the truth that was held back. */
  #split() {
    const { values, times } = this.#series;
    const held = byId("series-hold").checked && values.length > HORIZON ? HORIZON : 0;
    const cut = values.length - held;
    return { known: values.slice(0, cut), times: times.slice(0, cut), truth: values.slice(cut).map((row) => row[OT]) };
  }

  async ask() {
    if (!this.#series) return;
    const { known, times, truth } = this.#split();
    const accept = byId("series-accept").checked && { accept_implausible: true };
    const json = { values: known, start: this.#series.start, ...this.choice.picked, ...accept };
    const request = { method: "POST", path: "/predict/sequence", json };
    try {
      const answer = await this.#ask.run((signal) => call(request, signal));
      if (!answer) return;
      this.notice.clear();
      this.#view = viewOf(answer.data, known, times, truth);
      plain(byId("series-name"), this.#series.name);
      this.draw();
      this.facts(answer.data);
      this.warnings.show(answer.data.warnings);
      this.curl.show(request);
    } catch (error) {
      this.notice.problem(error, () => this.ask());
    }
  }

  draw() {
    const { past, ahead, lower, upper, truth } = this.#view;
    const lines = [
      { kind: "c", points: past },
      { kind: "a", points: [past.at(-1), ...ahead] },
    ];
    if (truth.length) lines.push({ kind: "b", points: [past.at(-1), ...truth] });
    this.chart.show({
      label: t("Oil temperature: the last days, and the forecast of the next 24 hours."),
      x: [past[0][0], ahead.at(-1)[0]],
      xTicks: daysOf(past[0][0], ahead.at(-1)[0]),
      yText: (value) => `${number(value)}°`,
      lines,
      band: { lower, upper },
      rule: past.at(-1)[0],
      read: (x) => this.read(x),
    });
    byId("series-table").replaceChildren(this.table());
  }

  /** The values at the hour nearest to `x`. */
  read(x) {
    const { past, ahead, lower, upper, truth } = this.#view;
    const hour = Math.round(x / HOUR_MS) * HOUR_MS;
    const at = (points) => points.find(([time]) => time === hour)?.[1];
    const [before, mean] = [at(past), at(ahead)];
    if (before === undefined && mean === undefined) return null;
    const degrees = (value) => `${number(value, 1)}°`;
    const rows = [["", hourText(hour), ""]];
    if (before !== undefined) rows.push(["c", t("history"), degrees(before)]);
    if (mean !== undefined)
      rows.push(
        ["a", t("forecast"), degrees(mean)],
        ["band", t("band"), `${degrees(at(lower))} – ${degrees(at(upper))}`],
      );
    if (at(truth) !== undefined) rows.push(["b", t("truth"), degrees(at(truth))]);
    return [hour, rows];
  }

  facts({ level, mean }) {
    const { lower, upper, truth } = this.#view;
    const facts = [
      ["Band holds", percent(level, 0)],
      ["Next hour", `${number(mean[0], 1)}°`],
    ];
    if (truth.length) {
      const hours = truth.map(([time]) => lower.findIndex(([other]) => other === time));
      const error = truth.reduce((sum, [, value], at) => sum + Math.abs(value - mean[hours[at]]), 0) / truth.length;
      const isInside = ([, value], at) => value >= lower[hours[at]][1] && value <= upper[hours[at]][1];
      const inside = truth.filter(isInside).length;
      facts.push(["Mean error", `${number(error, 2)}°`], ["Truth inside the band", `${inside} / ${truth.length}`]);
    }
    byId("series-facts").replaceChildren(
      ...facts.map(([word, value]) => el("div", {}, el("span", { class: "small soft", t: word }), el("b", {}, value))),
    );
    announce("The next hour is forecast at {n} degrees.", { n: () => number(mean[0], 1) });
  }

  table() {
    const { ahead, lower, upper, truth } = this.#view;
    const heads = ["time", "forecast", "from", "to", ...(truth.length ? ["truth"] : [])];
    const known = new Map(truth);
    const rows = ahead.map(([time, mean], hour) => {
      const cells = [mean, lower[hour][1], upper[hour][1], ...(truth.length ? [known.get(time)] : [])];
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, hourText(time)),
        ...cells.map((cell) => el("td", {}, cell === undefined ? "–" : number(cell, 2))),
      );
    });
    const head = el("tr", {}, ...heads.map((word) => el("th", { scope: "col", t: word })));
    return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
  }
}

function viewOf({ times: ahead, mean, lower, upper, level }, known, times, truth) {
  const hours = ahead.map((time) => Date.parse(`${time.slice(0, 19)}Z`));
  const with_ = (values) => values.map((value, hour) => [hours[hour], value]);
  const there = ([, value]) => value !== null;
  const past = times.map((time, index) => [time, known[index][OT]]).slice(-SHOWN).filter(there);
  return { past, ahead: with_(mean), lower: with_(lower), upper: with_(upper), truth: with_(truth).filter(there), level };
}

function daysOf(from, to) {
  const day = 24 * HOUR_MS;
  const style = new Intl.DateTimeFormat(locale(), { day: "numeric", month: "short", timeZone: "UTC" });
  const days = [];
  for (let at = Math.ceil(from / day) * day; at <= to; at += day) days.push([at, style.format(at)]);
  return days;
}

const hourText = (time) => iso(time).slice(0, 16).replace("T", " ");

export function startSeries() {
  translate(byId("series-name"), "No series yet");
  return new Series();
}
