// The drawing area: strokes by pointer or by keys, undo, clear, or a picture in their place.
import { byId } from "./dom.js";
import { translate } from "./words.js";

const SIZE = 280;
const INK = 20;
const STEP = 8;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  #strokes = []; // each a list of points [x, y] in canvas units
  #picture = null; // {bitmap, blob, name}
  #past = [];
  #drawing = null; // the stroke that is being drawn
  #cursor = [SIZE / 2, SIZE / 2];

  /** `onchange(final)` is called while drawing, and with true when a stroke has ended. */
  constructor(canvas, onchange) {
    Object.assign(this, { canvas, onchange, context: canvas.getContext("2d") });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.#up());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.#lift());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.draw();
  }

  get empty() {
    return !this.#picture && this.#strokes.length === 0;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  /** What is sent: the picture's own file, or the strokes as black on white. {blob, name} */
  async shot() {
    if (this.#picture) return { blob: this.#picture.blob, name: this.#picture.name };
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = SIZE;
    paint(sheet.getContext("2d"), this.#strokes, "#000", "#fff");
    return { blob: await new Promise((done) => sheet.toBlob(done, "image/png")), name: null };
  }

  /** Put a picture in place of the drawing; throws where the browser cannot read it as one. */
  async show(blob, name) {
    const bitmap = await createImageBitmap(blob);
    this.#remember();
    this.#strokes = [];
    this.#picture = { bitmap, blob, name };
    this.#changed(true);
  }

  undo() {
    const last = this.#past.pop();
    if (!last) return;
    [this.#strokes, this.#picture] = last;
    this.#changed(true);
  }

  clear() {
    if (this.empty) return;
    this.#remember();
    [this.#strokes, this.#picture] = [[], null];
    this.#changed(true);
  }

  draw() {
    const style = getComputedStyle(this.canvas);
    paint(this.context, this.#strokes, style.color, style.backgroundColor);
    if (this.#picture) this.#drawPicture(this.#picture.bitmap);
    if (this.canvas.matches(":focus-visible")) this.#drawCursor(style.caretColor);
  }

  #drawPicture(bitmap) {
    const scale = SIZE / Math.max(bitmap.width, bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    this.context.drawImage(bitmap, (SIZE - width) / 2, (SIZE - height) / 2, width, height);
  }

  #drawCursor(colour) {
    const { context } = this;
    context.beginPath();
    context.arc(...this.#cursor, INK / 2 + 3, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: colour, lineWidth: this.#drawing ? 4 : 2 });
    context.stroke();
  }

  #remember() {
    this.#past.push([this.#strokes, this.#picture]);
  }

  #changed(final) {
    this.draw();
    this.onchange(final);
  }

  #begin(point) {
    this.#remember();
    this.#drawing = [point];
    // A stroke over a picture begins a new drawing.
    this.#strokes = this.#picture ? [this.#drawing] : [...this.#strokes, this.#drawing];
    this.#picture = null;
    this.#changed(false);
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
  }

  #down(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#lift();
    this.#begin(this.#place(event));
  }

  #move(event) {
    if (!this.#drawing || !event.isPrimary || !this.canvas.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#drawing.push(this.#place(each));
    this.#changed(false);
  }

  #up() {
    if (!this.#drawing) return;
    this.#drawing = null;
    this.#changed(true);
  }

  #lift() {
    if (this.#drawing) this.#up();
    else this.draw();
  }

  #key(event) {
    const move = MOVES[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key !== "z") return;
      this.undo();
    } else if (move) this.#step(move, event.shiftKey ? 3 * STEP : STEP);
    else if (event.key === " ") this.#togglePen();
    else if (event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
  }

  #step([dx, dy], length) {
    const inside = (value) => Math.min(SIZE - INK, Math.max(INK, value));
    this.#cursor = [inside(this.#cursor[0] + dx * length), inside(this.#cursor[1] + dy * length)];
    if (!this.#drawing) return this.draw();
    this.#drawing.push(this.#cursor);
    return this.#changed(false);
  }

  #togglePen() {
    if (this.#drawing) this.#up();
    else this.#begin(this.#cursor);
    translate(byId("announce"), this.#drawing ? "The pen is down." : "The pen is up.");
  }
}

function paint(context, strokes, ink, ground) {
  Object.assign(context, { fillStyle: ground, strokeStyle: ink, lineWidth: INK, lineCap: "round", lineJoin: "round" });
  context.fillRect(0, 0, SIZE, SIZE);
  for (const [[x, y], ...rest] of strokes) {
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + 0.01, y); // a line without length would draw no dot
    for (const point of rest) context.lineTo(...point);
    context.stroke();
  }
}
