// One line under a panel's heading that says what went wrong, and counts down to the next try.
import { el } from "./dom.js";
import { plain, t, translate } from "./words.js";

const LONGEST_S = 60; // who is told to come back later than this decides for themselves

export class Notice {
  #timer = 0;

  constructor(node) {
    this.text = el("span");
    this.count = el("span", { class: "count", "aria-hidden": "true" });
    this.node = node;
    node.setAttribute("role", "status");
    node.append(this.text, " ", this.count);
  }

  /** Show what a call threw. With `retry`, a refusal that says when to come back is tried again then. */
  problem(error, retry = null) {
    this.clear();
    this.node.classList.add("bad");
    plain(this.text, sentence(error));
    const seconds = error.retryAfter ?? Infinity;
    if (retry && seconds <= LONGEST_S) this.#countDown(seconds, retry);
  }

  /** Show a sentence of the page itself. */
  say(text, values) {
    this.clear();
    translate(this.text, text, values);
  }

  clear() {
    clearInterval(this.#timer);
    this.node.classList.remove("bad");
    plain(this.text, "");
    plain(this.count, "");
  }

  #countDown(seconds, retry) {
    const until = performance.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left > 0) return plain(this.count, t("Trying again in {n} s.", { n: left }));
      this.clear();
      return retry();
    };
    this.#timer = setInterval(tick, 200);
    tick();
  }
}

/** An error as a sentence: what the service said, or what the page can say. */
function sentence(error) {
  const fields = (error.errors ?? []).map((each) => `${each.loc.at(-1)}: ${each.msg}`);
  const more = fields.filter((each) => !error.message.includes(each.split(": ")[1]));
  return [error.message, ...more].join(" ");
}
