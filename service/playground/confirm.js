// The question before anything that changes what is live.
import { byId } from "./dom.js";
import { translate } from "./words.js";

/** True when it is confirmed. `title`, `text`, `yes` are [text, values] pairs; `more` are fields of the question. */
export function confirmed({ title, text, yes, more = [] }) {
  const dialog = byId("confirm");
  translate(byId("confirm-title"), ...title);
  translate(byId("confirm-text"), ...text);
  translate(byId("confirm-yes"), ...yes);
  byId("confirm-more").replaceChildren(...more);
  dialog.returnValue = "";
  dialog.showModal();
  (more[0]?.querySelector("input, select") ?? byId("confirm-no")).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
