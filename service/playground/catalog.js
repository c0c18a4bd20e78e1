// The models of the service, as last told by GET /models, and the choice of one of them and of its version.
import { call } from "./api.js";
import { byId, el, option } from "./dom.js";
import { t, translate, onLanguage } from "./words.js";

let models = [];
const listeners = new Set();

export const all = () => models;
export const onModels = (listen) => {
  listeners.add(listen);
  if (models.length) listen();
};

/** Ask again; everyone who listens is told. */
export async function refresh() {
  const { data } = await call({ path: "/models" });
  models = data.models;
  for (const listen of listeners) listen();
}

/** Two selects, model and version, in `node`; `onchange()` when either changes. */
export class Choice {
  constructor(node, kind, onchange, preferred = 0) {
    Object.assign(this, { kind, preferred });
    const change = () => (this.#versions(), onchange());
    this.model = el("select", { on: { change } });
    this.version = el("select", { on: { change: onchange } });
    node.append(label("Model", this.model), label("Version", this.version));
    onModels(() => this.#fill());
    onLanguage(() => this.#versions());
  }

  /** What was chosen, in the form of the request; the live version is not named. */
  get picked() {
    const version = Number(this.version.value) || null;
    return { ...(this.model.value && { model: this.model.value }), ...(version && { version }) };
  }

  #fill() {
    const before = this.model.value;
    const mine = models.filter((each) => each.kind === this.kind);
    mine.sort((a, b) => b.default - a.default);
    this.model.replaceChildren(...mine.map((each) => option(each.name, each.name)));
    const names = mine.map((each) => each.name);
    this.model.value = names.includes(before) ? before : (names[this.preferred] ?? names[0] ?? "");
    this.#versions();
  }

  #versions() {
    const before = this.version.value;
    const model = models.find((each) => each.name === this.model.value);
    const live = option("", t("live: {n}", { n: model?.live ?? "-" }));
    const others = (model?.versions ?? []).map((each) => option(String(each.version), String(each.version)));
    this.version.replaceChildren(live, ...others.reverse());
    if (others.some((each) => each.value === before)) this.version.value = before;
  }
}

const label = (word, field) => el("label", { class: "field" }, el("span", { t: word }), field);

/** Tell a screen reader, quietly. */
export const announce = (text, values) => translate(byId("announce"), text, values);
