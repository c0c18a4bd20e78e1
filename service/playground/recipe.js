// The form of a training job, made from GET /train/recipes: the ranges are checked here too.
import { button, el, option } from "./dom.js";
import { plain, short, t, translate } from "./words.js";

const NUMBERS = [
  ["epochs", "Epochs", true],
  ["batch_size", "Batch size", true],
  ["learning_rate", "Learning rate", false],
];
const PROMOTE = [
  ["if_better", "goes live if the gate finds it good"],
  ["manual", "is published, and waits for you"],
  ["always", "goes live even if it is worse"],
];

export class RecipeForm {
  #recipes = null;
  #fields = new Map();

  /** `submit(spec)` gets a job whose numbers are within their ranges. */
  constructor(form, submit) {
    this.form = form;
    this.submit = submit;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.check()) submit(this.spec());
    });
  }

  show(recipes) {
    this.#recipes = recipes;
    const task = el("select", { id: "train-task", on: { change: () => this.#networks() } });
    task.append(...Object.keys(recipes.tasks).map((name) => option(name, name)));
    const network = el("select", { id: "train-network", on: { change: () => this.#ranges() } });
    this.about = el("p", { class: "small soft about" });
    this.#fields = new Map([
      ["task", task],
      ["network", network],
    ]);
    const pair = el("div", { class: "pair" }, field("Task", task), field("Network", network));
    const numbers = NUMBERS.map(([name, word]) => this.#number(name, word));
    const seed = this.#number("seed", "Seed");
    const promote = el("select", { id: "train-promote" });
    promote.append(...PROMOTE.map(([value, word]) => el("option", { value, t: word })));
    this.#fields.set("promote", promote);
    this.go = button("Train", { icon: "train", kind: "primary wide", type: "submit", id: "train-go" });
    const grid = el("div", { class: "pair" }, ...numbers, seed);
    this.form.replaceChildren(pair, this.about, grid, field("A good version", promote), this.go);
    this.#networks();
  }

  #number(name, word) {
    const input = el("input", {
      id: `train-${name}`,
      type: "text",
      inputmode: "decimal",
      autocomplete: "off",
      "aria-describedby": `hint-${name}`,
      on: { input: () => this.check() },
    });
    const hint = el("span", { class: "small soft hint", id: `hint-${name}` });
    this.#fields.set(name, input);
    return el("label", { class: "field" }, el("span", { t: word }), input, hint);
  }

  get #recipe() {
    return this.#recipes.tasks[this.#fields.get("task").value];
  }

  #networks() {
    const { networks, default_network: best } = this.#recipe;
    const select = this.#fields.get("network");
    select.replaceChildren(...Object.keys(networks).map((name) => option(name, name)));
    select.value = best;
    this.#ranges();
  }

  #ranges() {
    const network = this.#recipe.networks[this.#fields.get("network").value];
    plain(this.about, `${this.#recipe.summary} ${network.summary}`);
    for (const [name] of NUMBERS) this.#fields.get(name).value = String(network[name].default);
    this.#fields.get("seed").value ||= "0";
    this.check();
  }

  /** The range of a number of the chosen network: {min, max, whole}. */
  #range(name, whole) {
    if (name === "seed") return { min: 0, max: 2 ** 31 - 1, whole: true };
    return { ...this.#recipe.networks[this.#fields.get("network").value][name], whole };
  }

  /** Mark what is out of range; true when nothing is. */
  check() {
    const checks = [...NUMBERS, ["seed", "Seed", true]].map(([name, , whole]) => {
      const input = this.#fields.get(name);
      const { min, max } = this.#range(name, whole);
      const value = Number(input.value);
      const good = input.value.trim() !== "" && value >= min && value <= max && (!whole || Number.isInteger(value));
      const hint = input.nextElementSibling;
      const range = { min: () => short(min), max: () => (max > 1e6 ? "2³¹−1" : short(max)) };
      translate(hint, whole ? "a whole number from {min} to {max}" : "from {min} to {max}", range);
      hint.classList.toggle("bad", !good);
      input.setAttribute("aria-invalid", String(!good));
      return good;
    });
    this.go.disabled = !checks.every(Boolean);
    return !this.go.disabled;
  }

  spec() {
    const value = (name) => this.#fields.get(name).value;
    const numbers = Object.fromEntries([...NUMBERS, ["seed"]].map(([name]) => [name, Number(value(name))]));
    return { task: value("task"), network: value("network"), ...numbers, promote: value("promote") };
  }

  /** The metric's name of a task, and whether more of it is better. */
  metric(task) {
    const recipe = this.#recipes?.tasks[task];
    return { name: recipe?.metric ?? t("metric"), model: (network) => recipe?.networks[network]?.model };
  }
}

const field = (word, input) => el("label", { class: "field" }, el("span", { t: word }), input);
