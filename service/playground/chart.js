// Line charts as SVG, drawn at the size they are shown: lines, a band, axes, and the values under the pointer.
import { el, svg } from "./dom.js";

const PAD = { left: 48, right: 16, top: 16, bottom: 28 };

/** Round steps that cut `from`..`to` in about `count` parts. */
export function ticks(from, to, count) {
  const rough = (to - from) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => (first + index) * step);
}

/**
 * A chart in `node`. `show(spec)`: {label, x: [from, to], xTicks: [[x, text]], yText(value), lines: [{kind, points}],
 * band: {lower, upper} of points, rule: x, read(x): [x, [[kind, name, text], ...]] or null}. Points are [x, y].
 */
export class Chart {
  constructor(node) {
    this.node = node;
    this.spec = null;
    this.tip = el("div", { class: "tip", hidden: true });
    this.picture = svg("svg", { role: "img" });
    node.append(this.picture, this.tip);
    new ResizeObserver(() => this.draw()).observe(node);
    node.addEventListener("pointermove", (event) => this.#point(event));
    node.addEventListener("pointerleave", () => this.#unpoint());
  }

  show(spec) {
    this.spec = spec;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.node;
    if (!this.spec || !width) return;
    const { spec } = this;
    this.box = { width, height, ...PAD };
    this.scale = scaleOf(spec, this.box);
    this.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.picture.setAttribute("aria-label", spec.label);
    this.cross = svg("g", { class: "cross" });
    this.picture.replaceChildren(...this.#axes(), ...this.#shapes(), this.cross);
  }

  #axes() {
    const { box, scale, spec } = this;
    const rows = ticks(...scale.domain, 4).map((value) => {
      const y = scale.y(value);
      const text = svg("text", { x: box.left - 8, y: y + 4, class: "end" }, spec.yText(value));
      return svg("g", {}, svg("path", { class: "rule", d: `M${box.left} ${y}H${box.width - box.right}` }), text);
    });
    const fit = Math.max(1, Math.ceil((spec.xTicks.length * 64) / (box.width - box.left - box.right)));
    const columns = spec.xTicks
      .filter((_, index) => index % fit === 0)
      .map(([x, text]) => svg("text", { x: scale.x(x), y: box.height - 8, class: "mid" }, text));
    return [...rows, ...columns];
  }

  #shapes() {
    const { spec, scale, box } = this;
    const path = (points) =>
      points.map(([x, y], index) => `${index ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(y).toFixed(1)}`).join("");
    const shapes = [];
    if (spec.rule !== undefined)
      shapes.push(svg("path", { class: "now", d: `M${scale.x(spec.rule)} ${box.top}V${box.height - box.bottom}` }));
    if (spec.band) {
      const back = [...spec.band.upper].reverse();
      shapes.push(svg("path", { class: "band", d: `${path([...spec.band.lower, ...back])}Z` }));
    }
    for (const { kind, points, dots } of spec.lines) {
      shapes.push(svg("path", { class: `line ${kind}`, d: path(points) }));
      if (dots)
        shapes.push(
          ...points.map(([x, y]) => svg("circle", { class: `dot ${kind}`, cx: scale.x(x), cy: scale.y(y), r: 3 })),
        );
    }
    return shapes;
  }

  #point(event) {
    if (!this.scale || !this.spec?.read) return;
    const box = this.node.getBoundingClientRect();
    const found = this.spec.read(this.scale.back(event.clientX - box.left));
    if (!found) return this.#unpoint();
    const [x, rows] = found;
    const at = this.scale.x(x);
    this.cross.replaceChildren(svg("path", { d: `M${at} ${PAD.top}V${this.box.height - PAD.bottom}` }));
    this.tip.replaceChildren(
      ...rows.map(([kind, name, text]) =>
        el("div", {}, el("i", { class: `key ${kind}` }), el("span", {}, name), el("b", {}, text)),
      ),
    );
    this.tip.hidden = false;
    const left = at + 12 + this.tip.offsetWidth > this.box.width ? at - 12 - this.tip.offsetWidth : at + 12;
    this.tip.style.transform = `translate(${Math.max(0, left)}px, ${PAD.top}px)`;
  }

  #unpoint() {
    this.tip.hidden = true;
    this.cross?.replaceChildren();
  }
}

function scaleOf({ x: [from, to], lines, band, zero }, box) {
  const all = [...lines.flatMap(({ points }) => points), ...(band ? [...band.lower, ...band.upper] : [])].map(
    ([, y]) => y,
  );
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (zero) low = Math.min(0, low);
  const air = (high - low) * 0.06 || Math.abs(high) * 0.02 || 1;
  [low, high] = [zero && low === 0 ? 0 : low - air, high + air];
  const width = box.width - box.left - box.right;
  const height = box.height - box.top - box.bottom;
  return {
    domain: [low, high],
    x: (value) => box.left + ((value - from) / (to - from || 1)) * width,
    y: (value) => box.top + ((high - value) / (high - low)) * height,
    back: (pixel) => from + ((pixel - box.left) / width) * (to - from || 1),
  };
}

/** The key under a chart: [kind, translated text] pairs. */
export const legend = (pairs) =>
  el(
    "p",
    { class: "keys" },
    ...pairs.map(([kind, word]) => el("span", {}, el("i", { class: `key ${kind}` }), el("span", { t: word }))),
  );
