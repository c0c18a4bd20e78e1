// Where the panels meet: the address says which one is shown, the head says how the service is.
import { BASE, send } from "./api.js";
import { announce, refresh } from "./catalog.js";
import { startDigit } from "./digit.js";
import { byId } from "./dom.js";
import { key, startKey } from "./key.js";
import { startModels } from "./models.js";
import { startSeries } from "./series.js";
import { startText } from "./text.js";
import { startTrain } from "./train.js";
import { current, plain, setLanguage, startWords, translate } from "./words.js";

const ASK_MS = 4000;
const PANELS = [...document.querySelectorAll("[data-panel]")].map((node) => node.dataset.panel);
const enter = {};

// ---------------------------------------------------------------------- which panel

function route() {
  const [name, id] = location.hash.slice(1).split("/");
  const shown = PANELS.includes(name) ? name : "digit";
  for (const node of document.querySelectorAll("[data-panel]")) node.hidden = node.dataset.panel !== shown;
  for (const link of document.querySelectorAll("header nav a")) {
    const mine = link.hash === `#${shown}`;
    if (mine) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  title();
  enter[shown]?.(id ? decodeURIComponent(id) : null);
}

function title() {
  const shown = document.querySelector("[data-panel]:not([hidden]) h1");
  document.title = `${shown.textContent} · neuroserve`;
}

// ---------------------------------------------------------------------- how the service is

let wasLost = false;

async function look() {
  if (document.hidden) return;
  try {
    const response = await fetch(new URL("health/ready", BASE), { cache: "no-store" });
    const { status, models } = await response.json();
    const providers = [
      ...new Set(
        Object.values(models)
          .map((model) => model.provider)
          .filter(Boolean),
      ),
    ];
    show(status === "ready" ? "good" : "poor", status === "ready" ? "ready: {provider}" : "not ready", {
      provider: providers.map(shortly).join(", "),
    });
    if (wasLost) refresh().catch(() => {});
    wasLost = false;
  } catch {
    wasLost = true;
    show("bad", "not reachable");
  }
}

function show(kind, text, values) {
  byId("state").dataset.kind = kind;
  translate(byId("state-text"), text, values);
}

const shortly = (provider) => provider.replace("ExecutionProvider", "");

// ---------------------------------------------------------------------- the head

function startTheme() {
  const root = document.documentElement;
  const dark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("neuroserve.theme", root.dataset.theme);
    announce(dark() ? "Dark" : "Light");
  });
}

function startLanguage() {
  const button = byId("language");
  const name = () => {
    const chinese = current() === "zh";
    plain(button, chinese ? "English" : "中文");
    button.lang = chinese ? "en" : "zh-Hans";
  };
  name();
  button.addEventListener("click", () => {
    setLanguage(current() === "zh" ? "en" : "zh");
    name();
    title();
  });
}

/** A report behind a key cannot be a plain link: a browser sends no key with it. It is fetched, and offered as a file. */
function startReports() {
  document.addEventListener("click", async (event) => {
    const link = event.target.closest?.("a[data-report]");
    if (!link || !key()) return;
    event.preventDefault();
    const path = new URL(link.href).pathname.slice(BASE.pathname.length - 1);
    const [, , name, , version] = path.split("/");
    const address = URL.createObjectURL(await (await send({ path })).blob());
    const file = Object.assign(document.createElement("a"), {
      href: address,
      download: `${decodeURIComponent(name)}-${version}.html`,
    });
    file.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  });
}

async function start() {
  startWords();
  startKey();
  startTheme();
  startLanguage();
  startReports();
  startDigit();
  startText();
  startSeries();
  Object.assign(enter, { train: startTrain(), models: startModels() });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
  addEventListener("hashchange", route);
  document.addEventListener("visibilitychange", look);
  setInterval(look, ASK_MS);
  route();
  look();
  performance.mark("usable");
  await refresh().catch(() => {});
  document.documentElement.dataset.ready = "";
}

start();
