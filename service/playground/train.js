// The train panel: the form, the list of jobs, and the one that is followed. The address keeps which: #train/ID.
import { call } from "./api.js";
import { announce, refresh } from "./catalog.js";
import { confirmed } from "./confirm.js";
import { Curl } from "./curl.js";
import { byId, el } from "./dom.js";
import { ENDED, JobView, STATES } from "./job.js";
import { Notice } from "./notice.js";
import { RecipeForm } from "./recipe.js";
import { moment, t, translate } from "./words.js";

const LISTED = 8;

class Train {
  constructor() {
    this.notice = new Notice(byId("train-notice"));
    this.curl = new Curl(byId("train-curl"));
    this.form = new RecipeForm(byId("train-form"), (spec) => this.submit(spec));
    this.view = new JobView(byId("train-job"), {
      metric: (task) => this.form.metric(task),
      cancel: (id) => this.cancel(id),
      moved: (job) => this.moved(job),
    });
    this.shown = null;
  }

  /** The panel is opened, with the job of the address if there is one. */
  async enter(id) {
    await this.attempt(
      async () => {
        await this.load();
        await this.list();
        if (id && id !== this.shown) await this.open(id);
      },
      () => this.enter(id),
    );
  }

  async load() {
    if (this.loaded) return;
    const request = { path: "/train/recipes" };
    this.form.show((await call(request)).data);
    this.curl.show(request);
    this.loaded = true;
  }

  /** Queue a job. A try after a lost answer has the same key, so that it never becomes a second job. */
  async submit(spec, once = newKey()) {
    const request = { method: "POST", path: "/train", json: spec, headers: { "Idempotency-Key": once } };
    await this.attempt(
      async () => {
        this.form.go.disabled = true;
        try {
          const { data } = await call(request);
          this.curl.show(request);
          await this.list();
          location.hash = `train/${data.id}`;
        } finally {
          this.form.check();
        }
      },
      () => this.submit(spec, once),
    );
  }

  /** Follow a job; returns when it has ended or another one is opened. */
  async open(id) {
    this.shown = id;
    const path = `/train/${encodeURIComponent(id)}`;
    const { data } = await call({ path });
    if (this.shown !== id) return;
    this.mark();
    this.curl.show({ path: `${path}/events`, stream: true });
    this.view.open(data).catch((error) => this.notice.problem(error));
  }

  async cancel(id) {
    const sure = await confirmed({
      title: ["Cancel this job?"],
      text: ["What it has learnt so far is lost. The live version is not touched."],
      yes: ["Cancel the job"],
    });
    if (!sure) return;
    const request = { method: "DELETE", path: `/train/${encodeURIComponent(id)}` };
    await this.attempt(async () => {
      await call(request);
      this.curl.show(request);
    });
  }

  moved({ id, status }) {
    const chip = byId("train-jobs").querySelector(`[data-job="${CSS.escape(id)}"] .chip`);
    if (chip) {
      translate(chip, STATES[status]);
      chip.className = `chip ${status}`;
    }
    if (!ENDED.has(status)) return;
    announce("The job has ended: {state}.", { state: () => t(STATES[status]) });
    refresh().catch(() => {});
  }

  async list() {
    const { data } = await call({ path: `/train?limit=${LISTED}` });
    const items = data.jobs.map((job) => this.item(job));
    const none = el("li", { class: "small soft none", t: "None yet." });
    byId("train-jobs").replaceChildren(...(items.length ? items : [none]));
    this.mark();
  }

  item({ id, spec, status, created_at: created }) {
    const what = el("span", { class: "what" }, `${spec.task} · ${spec.network}`);
    const when = el("time", { class: "small soft", t: ["{when}", { when: () => moment(created) }], datetime: created });
    const link = el(
      "a",
      { href: `#train/${encodeURIComponent(id)}`, "data-job": id },
      what,
      el("span", { class: `chip ${status}`, t: STATES[status] }),
      when,
    );
    return el("li", {}, link);
  }

  mark() {
    for (const link of byId("train-jobs").querySelectorAll("a")) {
      if (link.dataset.job === this.shown) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  async attempt(work, again = null) {
    try {
      this.notice.clear();
      await work();
    } catch (error) {
      this.notice.problem(error, again);
    }
  }
}

const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");

export function startTrain() {
  const panel = new Train();
  return (id) => panel.enter(id);
}
