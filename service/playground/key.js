// The API key: asked for when the service wants one, kept for this tab only, and shown nowhere.
import { byId } from "./dom.js";
import { plain, translate } from "./words.js";

const PLACE = "neuroserve.key";
let asking = null;

export const key = () => sessionStorage.getItem(PLACE);

/** Ask for a key after a 401 or 403; true when there is another one to try than the `used` one. */
export async function askKey(problem, used) {
  if (key() !== used) return Boolean(key()); // another call has got one meanwhile
  asking ??= ask(problem, used).finally(() => (asking = null));
  return asking;
}

function ask(problem, used) {
  const dialog = byId("key-dialog");
  const field = byId("key-field");
  if (used) plain(byId("key-why"), problem.message);
  else translate(byId("key-why"), "This service asks who is calling. Give your API key; it is kept for this tab only.");
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    const closed = () => {
      const given = dialog.returnValue === "use" ? field.value.trim() : "";
      field.value = "";
      if (given) keep(given);
      resolve(Boolean(given));
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}

function keep(value) {
  sessionStorage.setItem(PLACE, value);
  show();
}

function show() {
  byId("key-forget").hidden = !key();
}

export function startKey() {
  show();
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("key-dialog").close("use");
  });
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close(""));
  byId("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(PLACE);
    location.reload();
  });
}
