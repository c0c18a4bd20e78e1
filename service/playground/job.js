// One job as it goes: its state, how far it is, its curves, its log, and how it ended.
import { Chart, legend } from "./chart.js";
import { button, el } from "./dom.js";
import { follow } from "./sse.js";
import { clock, duration, number, onLanguage, plain, short, t, translate } from "./words.js";

export const STATES = {
  queued: "waiting",
  running: "running",
  cancelling: "being cancelled",
  succeeded: "succeeded",
  rejected: "refused by the gate",
  failed: "failed",
  cancelled: "cancelled",
};
export const ENDED = new Set(["succeeded", "rejected", "failed", "cancelled"]);
const LOG_LINES = 200;

export class JobView {
  #controller = null;
  #frame = 0;

  /** `metric(task)` names a task's metric, `cancel(id)` asks and cancels, `moved(job)` hears of each status. */
  constructor(node, { metric, cancel, moved }) {
    Object.assign(this, { node, metric, moved, job: null });
    this.title = el("h2", { id: "job-title" });
    this.chip = el("span", { class: "chip", id: "job-status" });
    this.stop = button("Cancel", { icon: "stop", kind: "small", id: "job-cancel", onclick: () => cancel(this.job.id) });
    this.bar = el("progress", { max: "1", value: "0", tLabel: "Progress" });
    this.where = el("p", { class: "small soft", id: "job-where" });
    this.link = el("p", { class: "small soft link", id: "job-link", role: "status" });
    this.verdict = el("div", { class: "verdict", id: "job-verdict" });
    this.log = el("div", { class: "log", id: "job-log", tabindex: "0", role: "log", tLabel: "Log" });
    this.loss = el("div", { class: "chart", id: "job-loss" });
    this.score = el("div", { class: "chart", id: "job-metric" });
    this.scoreName = el("h3");
    this.#lay();
    this.charts = [new Chart(this.loss), new Chart(this.score)];
    onLanguage(() => this.job && this.#later());
    this.clear();
  }

  #lay() {
    const head = el("div", { class: "job-head" }, this.title, this.chip, this.stop);
    const loss = el(
      "figure",
      {},
      el("h3", { t: "Loss" }),
      this.loss,
      legend([
        ["a", "training"],
        ["b", "validation"],
      ]),
    );
    const score = el("figure", {}, this.scoreName, this.score, legend([["b", "validation"]]));
    const curves = el("div", { class: "curves" }, loss, score);
    const log = el("details", { open: true }, el("summary", { t: "Log" }), this.log);
    this.node.append(head, this.bar, this.where, this.link, this.verdict, curves, log);
  }

  clear() {
    this.#controller?.abort();
    this.job = null;
    this.node.classList.add("idle");
    translate(this.title, "No job chosen");
    translate(this.where, "Start one, or choose one from the list.");
    translate(this.scoreName, "Metric");
    this.chip.hidden = this.stop.hidden = true;
  }

  /** Show a job and follow it to its end; throws Problem when it cannot be followed. */
  async open(job) {
    this.clear();
    const mine = (this.#controller = new AbortController());
    this.node.classList.remove("idle");
    this.job = { ...job, history: [], result: null, error: null };
    this.verdict.replaceChildren();
    this.log.replaceChildren();
    plain(this.link, "");
    this.#later();
    const told = (type, data) => {
      this.#told(type, data);
      this.#later();
    };
    const lost = (seconds) =>
      translate(this.link, "The connection is lost; trying again in {n} s. The job goes on.", { n: seconds });
    await follow(job.id, { told, lost, back: () => plain(this.link, "") }, mine.signal);
  }

  #told(type, data) {
    const { job } = this;
    if (type === "status") {
      job.status = data.status;
      this.#note(data.at, STATES[data.status]);
      this.moved(job);
    } else if (type === "progress") job.progress = data.progress;
    else if (type === "warnings") job.warnings = data.warnings;
    else if (type === "epoch") this.#epoch(data);
    else if (type === "log") this.#line(data.at, data.level, el("span", { lang: "en" }, data.message));
    else if (type === "done") {
      Object.assign(job, { status: data.status, result: data.result, error: data.error, finished_at: data.at });
      this.#note(data.at, STATES[data.status]);
      this.moved(job);
    }
  }

  /** A job that went on from a checkpoint tells an epoch again. */
  #epoch({ at, row, stopped_early: early }) {
    this.job.history = [...this.job.history.filter(({ epoch }) => epoch < row.epoch), row];
    const values = {
      n: row.epoch,
      loss: () => short(row.val_loss),
      name: this.metric(this.job.spec.task).name,
      metric: () => short(row.val_metric),
    };
    this.#note(at, "epoch {n}: validation loss {loss}, {name} {metric}", values);
    if (early) this.#note(at, "It stopped early: more epochs did not help.");
  }

  #note(at, text, values = {}) {
    this.#line(at, "info", el("span", { t: [text, values] }));
  }

  #line(at, level, said) {
    this.log.append(el("p", { class: level }, el("time", { datetime: at }, clock(at)), said));
    while (this.log.children.length > LOG_LINES) this.log.firstChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
  }

  #later() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.job) this.#draw();
    });
  }

  #draw() {
    const { job } = this;
    const over = ENDED.has(job.status);
    plain(this.title, `${job.spec.task} · ${job.spec.network}`);
    translate(this.chip, STATES[job.status]);
    this.chip.className = `chip ${job.status}`;
    this.chip.hidden = false;
    this.stop.hidden = over;
    this.stop.disabled = job.status === "cancelling";
    this.#progress(over);
    this.#curves();
    if (over) this.#verdict();
  }

  #progress(over) {
    const { progress, history, spec } = this.job;
    const done = progress ? (progress.epoch - 1 + progress.step / Math.max(1, progress.steps)) / progress.epochs : 0;
    const whole = this.job.status === "succeeded" || this.job.status === "rejected";
    this.bar.value = whole ? 1 : Math.min(1, done);
    this.bar.className = over ? this.job.status : "";
    if (over) {
      const values = { n: history.length, s: () => duration(history.reduce((sum, row) => sum + row.seconds, 0)) };
      translate(this.where, history.length === 1 ? "{n} epoch in {s}" : "{n} epochs in {s}", values);
    } else if (!progress)
      translate(this.where, this.job.status === "queued" ? this.#waits() : "Getting the data ready.");
    else if (done >= 1) translate(this.where, "Exporting, checking and judging what was trained.");
    else this.#eta(progress, spec);
  }

  #waits() {
    const none = this.job.warnings?.some(({ code }) => code === "no_worker");
    return none
      ? "No training worker is running, so it waits until one is: python -m training worker starts one."
      : "It waits for a worker.";
  }

  #eta({ epoch, epochs, step, steps, eta_s: eta }) {
    const values = { epoch, epochs, step: () => number(step), steps: () => number(steps), left: () => duration(eta) };
    const text = "Epoch {epoch} of {epochs}, step {step} of {steps}";
    translate(
      this.where,
      eta === null ? text : "Epoch {epoch} of {epochs}, step {step} of {steps}, about {left} left",
      values,
    );
  }

  #curves() {
    const { history, spec } = this.job;
    const { name } = this.metric(spec.task);
    plain(this.scoreName, name);
    const last = spec.epochs;
    const line = (kind, field) => ({ kind, dots: last <= 40, points: history.map((row) => [row.epoch, row[field]]) });
    const xTicks = epochTicks(last);
    const base = { x: [0.5, last + 0.5], xTicks, yText: short };
    const empty = {
      ...base,
      lines: [
        { kind: "a", points: [] },
        {
          kind: "ghost",
          points: [
            [1, 0],
            [1, 1],
          ],
        },
      ],
      label: t("No epoch has ended yet."),
    };
    if (!history.length) return this.charts.forEach((chart) => chart.show(empty));
    const read = (fields) => (x) => readEpoch(history, x, fields);
    const loss = {
      lines: [line("a", "train_loss"), line("b", "val_loss")],
      label: t("Loss of each epoch"),
      read: read([
        ["a", "training", "train_loss"],
        ["b", "validation", "val_loss"],
      ]),
    };
    const score = {
      lines: [line("b", "val_metric")],
      label: t("Metric of each epoch"),
      read: read([["b", "validation", "val_metric"]]),
    };
    this.charts[0].show({ ...base, ...loss });
    return this.charts[1].show({ ...base, ...score });
  }

  #verdict() {
    const { status, result } = this.job;
    const parts = [sentence(this.job)];
    if (result?.gate.reasons.length) {
      parts.push(
        el(
          "details",
          { open: status === "rejected" },
          el("summary", { t: "What the gate looked at" }),
          el("ul", { class: "checks" }, ...checks(result.gate)),
        ),
      );
    }
    if (result?.model) parts.push(links(result.model));
    this.verdict.className = `verdict ${status}`;
    this.verdict.replaceChildren(...parts);
  }
}

/** The gate's checks, failed ones first, each with a mark and a word: colour alone tells nothing. */
function checks({ checks: found, reasons }) {
  if (!found?.length) return reasons.map((reason) => el("li", { lang: "en" }, reason));
  return found.map(({ passed, detail }) => {
    const word = passed ? "passed" : "not passed";
    return el("li", { class: passed ? "passed" : "failed" }, el("b", { t: word }), ": ", el("span", { lang: "en" }, detail));
  });
}

/** The end in words. */
function sentence({ status, result, error, spec }) {
  const { name, version, live } = result?.model ?? {};
  const forced =
    "The gate found it sound, and it went live without a comparison, as you asked: version {version} of {name}. Later trainings are compared with it.";
  const good = "The gate found it good: version {version} of {name} is live.";
  const waiting = "Version {version} of {name} is published, and not live. Promote it under Models.";
  const texts = {
    succeeded: live ? (spec.promote === "always" ? forced : good) : waiting,
    rejected: "The gate refused it. Nothing was published, and the live version goes on.",
    failed: "It failed: {error}.",
    cancelled: "It was cancelled. Nothing was published.",
  };
  return el("p", { t: [texts[status], { name, version, error: error?.replace(/\.$/, "") }] });
}

function links({ name, version }) {
  const report = el("a", {
    href: `models/${encodeURIComponent(name)}/versions/${version}/report`,
    "data-report": "",
    target: "_blank",
    rel: "noopener",
    t: "Report of the version",
  });
  return el("p", { class: "links" }, report, el("a", { href: "#models", t: "See it under Models" }));
}

function epochTicks(last) {
  const step = Math.max(1, Math.ceil(last / 8));
  return Array.from({ length: Math.floor((last - 1) / step) + 1 }, (_, index) => [
    1 + index * step,
    String(1 + index * step),
  ]);
}

function readEpoch(history, x, fields) {
  const row = history.find(({ epoch }) => epoch === Math.round(x));
  if (!row) return null;
  return [
    row.epoch,
    [
      ["", t("epoch {n}", { n: row.epoch }), ""],
      ...fields.map(([kind, word, field]) => [kind, t(word), short(row[field])]),
    ],
  ];
}
