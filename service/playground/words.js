// The page's two languages. English is the key; `zh.js` has the Chinese. A switch changes every text in place.
import chinese from "./zh.js";

const KEY = "neuroserve.language";
const told = new WeakMap(); // element -> {attribute or "": [text, values]}
const listeners = new Set();
let language = localStorage.getItem(KEY) ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const current = () => language;

/** Call whenever the language has changed. */
export const onLanguage = (call) => listeners.add(call);

/** The text in the page's language; `{name}` is replaced by `values.name`, a function of which is called. */
export function t(text, values = {}) {
  const pattern = language === "zh" ? (chinese[text] ?? missing(text)) : text;
  return pattern.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return typeof value === "function" ? value() : (value ?? whole);
  });
}

function missing(text) {
  console.warn(`zh.js lacks: ${text}`);
  return text;
}

/** Set an element's text, or one of its attributes, now and at each switch. */
export function translate(node, text, values = {}, attribute = "") {
  if (typeof values === "string") [values, attribute] = [{}, values];
  told.set(node, { ...told.get(node), [attribute]: [text, values] });
  node.setAttribute("data-t", "");
  put(node, attribute, text, values);
}

function put(node, attribute, text, values) {
  const words = t(text, values);
  if (attribute) node.setAttribute(attribute, words);
  else if (node.textContent !== words) node.textContent = words;
}

/** A text that no dictionary has: a name, or what the server said. */
export function plain(node, text) {
  const kept = told.get(node);
  if (kept) delete kept[""];
  if (node.textContent !== text) node.textContent = text;
}

/** Read the English of index.html once; its elements say which attributes are words in `data-t`. */
function learn() {
  for (const node of document.querySelectorAll("[data-t]")) {
    const names = node.dataset.t.split(" ").filter(Boolean);
    const texts = Object.fromEntries(names.map((name) => [name, [node.getAttribute(name), {}]]));
    if (!node.hasAttribute("data-t-attributes-only")) texts[""] = [node.textContent.replace(/\s+/g, " ").trim(), {}];
    told.set(node, texts);
  }
}

/** Switch, and remember it. */
export function setLanguage(next) {
  localStorage.setItem(KEY, next);
  speak(next);
}

function speak(next) {
  language = next;
  document.documentElement.lang = next === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-t]")) {
    for (const [attribute, [text, values]] of Object.entries(told.get(node) ?? {})) put(node, attribute, text, values);
  }
  for (const call of listeners) call();
}

export function startWords() {
  learn();
  speak(language);
}

// ---------------------------------------------------------------------- numbers, in the page's language

export const locale = () => (language === "zh" ? "zh-Hans" : "en-GB");
const format = (value, options) => new Intl.NumberFormat(locale(), options).format(value);

export const percent = (value, digits = 1) =>
  format(value, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });
export const number = (value, digits = 0) =>
  format(value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const short = (value) => format(value, { maximumSignificantDigits: 4 });

/** A time of the server, in the reader's zone. */
export function moment(text) {
  const options = { dateStyle: language === "zh" ? "short" : "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(locale(), options).format(new Date(text));
}

/** The same to the second, without the day. */
export const clock = (text) => new Date(text).toTimeString().slice(0, 8);

/** Seconds as people say them. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return t("{n} s", { n: whole });
  if (whole < 3600) return t("{m} min {n} s", { m: Math.floor(whole / 60), n: whole % 60 });
  return t("{h} h {m} min", { h: Math.floor(whole / 3600), m: Math.floor((whole % 3600) / 60) });
}

export const bytes = (value) => (value < 2 ** 20 ? `${number(value / 1024)} KiB` : `${number(value / 2 ** 20, 1)} MiB`);
