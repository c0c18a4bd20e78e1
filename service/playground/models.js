// The models panel: what answers now, every version and how good it was, and the three ways to change it.
import { call } from "./api.js";
import { CanaryBook, canaryFields } from "./canary.js";
import { all, announce, onModels, refresh } from "./catalog.js";
import { compare } from "./compare.js";
import { confirmed } from "./confirm.js";
import { Curl } from "./curl.js";
import { byId, button, el } from "./dom.js";
import { Notice } from "./notice.js";
import { bytes, moment, number, percent } from "./words.js";

const HEADS = ["Model", "Version", "State", "On the test split", "Runs on", "Size", "Made", "Actions"];

class Models {
  constructor() {
    this.notice = new Notice(byId("models-notice"));
    this.curl = new Curl(byId("models-curl"));
    this.canaries = new CanaryBook();
    onModels(() => this.draw());
  }

  async enter() {
    await this.attempt(
      async () => {
        await refresh();
        this.curl.show({ path: "/models" });
        await this.canaries.load(all().map((model) => model.name));
        this.draw();
      },
      () => this.enter(),
    );
  }

  draw() {
    const head = el(
      "tr",
      { role: "row" },
      ...HEADS.map((word) => el("th", { scope: "col", role: "columnheader", t: word })),
    );
    const groups = all().map((model) => this.group(model));
    const table = el(
      "table",
      { role: "table", class: "models", tLabel: "Models and versions" },
      el("thead", { role: "rowgroup" }, head),
      ...groups,
    );
    const focused = document.activeElement?.dataset?.action;
    byId("models-table").replaceChildren(table);
    if (focused) table.querySelector(`[data-action="${CSS.escape(focused)}"]`)?.focus();
    compare(byId("models-compare"), all());
  }

  /** A model's rows, the newest version first; its name stands beside all of them. */
  group(model) {
    const versions = [...model.versions].reverse();
    const name = el("strong", { class: "name" }, model.name);
    const chip = model.default ? el("span", { class: "chip", t: "default" }) : null;
    const problem = model.problem ? el("p", { class: "small bad", lang: "en" }, model.problem) : null;
    const heading = el(
      "th",
      { rowspan: versions.length, scope: "rowgroup", role: "rowheader" },
      el("div", { class: "group" }, name, chip),
      problem,
    );
    const rows = versions.map((version, index) => this.row(model, version, index ? null : heading));
    return el("tbody", { role: "rowgroup", "data-model": model.name }, ...rows);
  }

  row(model, version, heading) {
    const cells = [
      ["Version", el("b", {}, String(version.version))],
      ["State", this.state(model, version)],
      ["On the test split", el("span", {}, scoreOf(version))],
      ["Runs on", runsOn(model, version)],
      ["Size", el("span", {}, bytes(version.bytes))],
      ["Made", el("span", { t: ["{when}", { when: () => (version.created_at ? moment(version.created_at) : "") }] })],
      ["Actions", el("span", { class: "row" }, ...this.actions(model, version))],
    ];
    const tds = cells.map(([word, node]) =>
      el("td", { role: "cell" }, el("span", { class: "cell-head", "aria-hidden": "true", t: word }), node),
    );
    return el(
      "tr",
      { role: "row", class: version.live ? "live" : "", "data-version": version.version },
      heading,
      ...tds,
    );
  }

  state(model, version) {
    const { version: n } = version;
    if (version.problem) return el("span", { class: "chip failed", title: version.problem, t: "cannot be served" });
    if (version.live) return el("span", { class: "chip succeeded", t: "live" });
    if (this.canaries.running(model.name)?.version === n) return this.canaries.shown(model.name);
    return el("span", { class: "chip plain", t: n === model.previous ? "live before" : "in the store" });
  }

  actions(model, version) {
    const { version: n } = version;
    const trial = this.canaries.running(model.name);
    const report = el(
      "a",
      {
        class: "button small",
        href: `models/${encodeURIComponent(model.name)}/versions/${n}/report`,
        "data-report": "",
        target: "_blank",
        rel: "noopener",
      },
      el("span", { t: "Report" }),
      named(model, n),
    );
    const able = {
      rollback: version.live && model.previous !== null,
      promote: !version.live && !version.problem,
      canary: !version.live && !version.problem && !trial,
      end: trial?.version === n,
    };
    const made = {
      rollback: () => this.action(model, "rollback", n, "Roll back", "undo", () => this.rollback(model)),
      promote: () => this.action(model, "promote", n, "Promote", "up", () => this.promote(model, n)),
      canary: () => this.action(model, "canary", n, "Canary", "split", () => this.canary(model, n)),
      end: () => this.action(model, "end", n, "End", "stop", () => this.endCanary(model)),
    };
    return [
      ...Object.keys(made)
        .filter((kind) => able[kind])
        .map((kind) => made[kind]()),
      report,
    ];
  }

  /** A button with a name of its own for screen readers, which hear it without its row. */
  action(model, kind, version, word, icon, onclick) {
    const node = button(word, { icon, kind: "small", onclick, "data-action": `${kind} ${model.name} ${version}` });
    node.append(named(model, version));
    return node;
  }

  async promote(model, version) {
    const values = { name: model.name, version, live: model.live };
    const sure = await confirmed({
      title: ["Make version {version} of {name} live?", values],
      text: [
        "It answers within two seconds in place of version {live}, without a failed request. You can roll back.",
        values,
      ],
      yes: ["Make it live"],
    });
    const path = `/models/${encodeURIComponent(model.name)}/promote`;
    if (sure)
      await this.change({ method: "POST", path, json: { version } }, "Version {version} of {name} is live.", values);
  }

  async rollback(model) {
    const values = { name: model.name, version: model.previous, live: model.live };
    const sure = await confirmed({
      title: ["Roll {name} back?", values],
      text: ["Version {version} answers again in place of version {live}.", values],
      yes: ["Roll back"],
    });
    const path = `/models/${encodeURIComponent(model.name)}/rollback`;
    if (sure) await this.change({ method: "POST", path }, "Version {version} of {name} is live.", values);
  }

  async canary(model, version) {
    const values = { name: model.name, version, live: model.live };
    const fields = canaryFields();
    const sure = await confirmed({
      title: ["Try version {version} of {name} on a part of the requests?", values],
      text: ["The others still go to version {live}. It ends when you end it, or promote it.", values],
      yes: ["Start the canary"],
      more: fields.nodes,
    });
    const path = `/models/${encodeURIComponent(model.name)}/canary`;
    const json = { version, ...fields.values() };
    if (sure)
      await this.change({ method: "POST", path, json }, "The canary of version {version} of {name} runs.", values);
  }

  async endCanary(model) {
    const values = { name: model.name, version: this.canaries.running(model.name).version, live: model.live };
    const sure = await confirmed({
      title: ["End the canary of {name}?", values],
      text: ["Every request goes to version {live} again.", values],
      yes: ["End the canary"],
    });
    const path = `/models/${encodeURIComponent(model.name)}/canary`;
    if (sure)
      await this.change({ method: "DELETE", path }, "The canary of version {version} of {name} has ended.", values);
  }

  async change(request, done, values) {
    await this.attempt(async () => {
      await call(request);
      await refresh();
      await this.canaries.load(all().map((model) => model.name));
      this.draw();
      this.curl.show(request);
      this.notice.say(done, values);
      announce(done, values);
    });
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

const named = (model, version) => el("span", { class: "visually-hidden" }, ` ${model.name} ${version}`);

/** The provider of the version that answers; the others are not loaded. */
function runsOn(model, version) {
  const provider = model.serving === version.version ? model.provider : null;
  return el("span", { class: "soft" }, provider ? provider.replace("ExecutionProvider", "") : "–");
}

function scoreOf({ metrics }) {
  const { accuracy, mse } = metrics.test ?? {};
  if (accuracy !== undefined) return percent(accuracy, 2);
  return mse === undefined ? "–" : `MSE ${number(mse, 4)}`;
}

export function startModels() {
  const panel = new Models();
  return () => panel.enter();
}
