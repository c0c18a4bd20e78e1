// The digit panel: draw or give a picture, and one or two models answer while you draw.
import { Newest, call, paced, settled } from "./api.js";
import { Bars } from "./bars.js";
import { Choice, announce } from "./catalog.js";
import { Curl } from "./curl.js";
import { byId, button, el } from "./dom.js";
import { Notice } from "./notice.js";
import { Pad } from "./pad.js";
import { hasCamera, openCamera, takeFiles, takePasted } from "./pictures.js";
import { Warnings } from "./warnings.js";
import { percent, plain, translate } from "./words.js";

const PACE_MS = 60;
const REST_MS = 160; // the hand has stopped: now ask for the reasons too
const NAMES = [..."0123456789"];
const INLINE_BYTES = 12_000; // up to here the curl line carries the picture itself

/** One model's answer: the digit, ten bars, what it saw and what it looked at. */
class Answer {
  #ask = new Newest();
  #why = new Newest();

  constructor(number, onchange) {
    this.digit = el("output", { class: "digit-out", tLabel: "The answer" });
    this.sure = el("p", { class: "small soft sure" });
    this.bars = new Bars(el("div", { tLabel: "Probabilities" }));
    this.warnings = new Warnings();
    this.saw = canvas28("What the model saw");
    this.map = canvas28("What it rests on");
    const choice = el("div", { class: "choice" });
    const pictures = el(
      "div",
      { class: "seen" },
      figure(this.saw, "What the model saw"),
      figure(this.map, "What it rests on"),
    );
    const head = el("div", { class: "digit-head" }, el("div", {}, this.digit, this.sure), pictures);
    this.node = el("div", { class: "card answer" }, choice, head, this.bars.node, this.warnings.node);
    this.choice = new Choice(choice, "image", () => onchange(), number);
    this.blank();
  }

  blank() {
    this.#ask.stop();
    this.#why.stop();
    plain(this.digit, "–");
    translate(this.sure, "nothing drawn yet");
    this.warnings.show();
    this.bars.show(NAMES.map((name) => [name, null]));
    for (const sheet of [this.saw, this.map]) pen(sheet).clearRect(0, 0, 28, 28);
  }

  /** The request for a picture {blob, name}. */
  request({ blob }, explain) {
    const query = new URLSearchParams({ ...this.choice.picked, ...(explain && { explain: "true" }) });
    const path = `/predict/digit${query.size ? `?${query}` : ""}`;
    return { method: "POST", path, body: blob, type: typeOf(blob) };
  }

  async ask(shot) {
    const answer = await this.#ask.run((signal) => call(this.request(shot, false), signal));
    if (answer) this.#show(answer.data);
    return answer;
  }

  /** The same with the reasons; undefined when the drawing has changed meanwhile. */
  async explain(shot) {
    const answer = await this.#why.run((signal) => call(this.request(shot, true), signal));
    if (!answer) return undefined;
    this.#show(answer.data);
    await this.#reasons(answer.data.explanation);
    return answer.data;
  }

  /** Reasons that are under way are for a drawing that is no more. */
  hush() {
    this.#why.stop();
  }

  #show({ digit, confidence, probabilities, warnings }) {
    plain(this.digit, String(digit));
    translate(this.sure, "{p} confident", { p: () => percent(confidence) });
    this.warnings.show(warnings);
    this.bars.show(probabilities.map((value, index) => [NAMES[index], value]));
  }

  async #reasons({ saliency, input }) {
    const bytes = Uint8Array.from(atob(input), (char) => char.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
    pen(this.saw).drawImage(bitmap, 0, 0, 28, 28);
    const context = pen(this.map);
    context.drawImage(bitmap, 0, 0, 28, 28);
    const sheet = context.getImageData(0, 0, 28, 28);
    heat(sheet.data, saliency.flat());
    context.putImageData(sheet, 0, 0);
  }
}

/** The picture in grey, and over it the weights in orange. */
function heat(pixels, weights) {
  weights.forEach((weight, index) => {
    const at = 4 * index;
    [255, 150, 40].forEach((colour, channel) => {
      pixels[at + channel] = (1 - weight) * 0.45 * pixels[at + channel] + weight * colour;
    });
  });
}

const pen = (sheet) => sheet.getContext("2d", { willReadFrequently: true });

function canvas28(word) {
  return el("canvas", { width: 28, height: 28, role: "img", tLabel: word });
}

const figure = (sheet, word) => el("figure", {}, sheet, el("figcaption", { class: "small soft", t: word }));

const typeOf = (blob) => (/^image\/(png|jpeg|webp|bmp|gif|tiff)$/.test(blob.type) ? blob.type : "image/png");

class Digit {
  constructor() {
    this.notice = new Notice(byId("digit-notice"));
    this.curl = new Curl(byId("digit-curl"));
    this.answers = [0, 1].map((number) => new Answer(number, () => this.refresh()));
    byId("digit-answers").append(...this.answers.map((answer) => answer.node));
    this.live = paced((final) => this.ask(final), PACE_MS);
    this.reasons = settled(() => this.explain(), REST_MS);
    this.pad = new Pad(byId("pad"), (final) => this.changed(final));
    this.tools();
    this.second();
  }

  tools() {
    const take = (blob, name) => this.take(blob, name);
    this.undo = button("Undo", { icon: "undo", onclick: () => this.pad.undo(), id: "pad-undo", disabled: true });
    this.clear = button("Clear", { icon: "clear", onclick: () => this.pad.clear(), id: "pad-clear", disabled: true });
    const file = button("Picture", { icon: "file", onclick: () => byId("digit-file").click() });
    const camera = button("Camera", { icon: "camera", onclick: () => this.camera(take), id: "pad-camera" });
    byId("pad-tools").append(this.undo, this.clear, file, ...(hasCamera() ? [camera] : []));
    takeFiles(byId("digit-drop"), byId("digit-file"), take);
    takePasted(document.querySelector("[data-panel=digit]"), take);
  }

  second() {
    const box = byId("digit-two");
    const set = () => {
      this.answers[1].node.hidden = !box.checked;
      byId("digit-answers").classList.toggle("two", box.checked);
      this.refresh();
    };
    box.addEventListener("change", set);
    set();
  }

  async take(blob, name) {
    try {
      await this.pad.show(blob, name);
    } catch {
      this.notice.say("{name} is not a picture that this browser can show.", { name });
      this.notice.node.classList.add("bad");
    }
  }

  async camera(take) {
    try {
      await openCamera(take);
    } catch (error) {
      this.notice.say("The camera cannot be used: {why}", { why: error.message });
      this.notice.node.classList.add("bad");
    }
  }

  changed(final) {
    this.undo.disabled = !this.pad.canUndo;
    this.clear.disabled = this.pad.empty;
    for (const answer of this.answers) answer.hush();
    if (this.pad.empty) return this.blank();
    if (final) this.live.now();
    else this.live();
    return this.reasons();
  }

  blank() {
    this.live.stop();
    this.notice.clear();
    for (const answer of this.answers) answer.blank();
  }

  refresh() {
    if (this.pad && !this.pad.empty) this.changed(true);
  }

  get shown() {
    return this.answers.filter((answer) => !answer.node.hidden);
  }

  async ask(final) {
    if (this.pad.empty) return;
    if (this.asking && !final) return void this.live(); // a slow service answers what it can, not nothing
    const mine = (this.asking = {});
    const shot = await this.pad.shot();
    await this.attempt(async () => {
      const answers = await Promise.all(this.shown.map((answer) => answer.ask(shot)));
      if (answers.some(Boolean)) this.notice.clear();
    });
    if (this.asking === mine) this.asking = null;
  }

  async explain() {
    if (this.pad.empty) return;
    const shot = await this.pad.shot();
    await this.attempt(async () => {
      const [answer] = await Promise.all(this.shown.map((each) => each.explain(shot)));
      if (!answer) return;
      announce("It is a {digit}.", { digit: answer.digit });
      await this.showCurl(shot);
    });
  }

  async showCurl(shot) {
    const request = this.answers[0].request(shot, false);
    const small = shot.blob.size <= INLINE_BYTES;
    this.curl.show({ ...request, file: shot.name ?? "digit.png", base64: small ? await base64(shot.blob) : null });
  }

  async attempt(work) {
    try {
      await work();
    } catch (error) {
      if (this.pad.empty) return;
      for (const answer of this.answers) answer.blank();
      this.notice.problem(error, () => this.refresh());
    }
  }
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

export function startDigit() {
  const panel = new Digit();
  new MutationObserver(() => panel.pad.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}
