// What makes an answer less reliable: a sentence of the page's language for each code, and the service's own words.
import { el } from "./dom.js";

const SENTENCES = {
  several_marks: "There are several marks in the picture, and the answer may be about one of them only.",
  not_like_training_data: "This is not like what the model was trained on.",
  unknown_words: "The model does not know most of these words.",
  truncated: "The text is longer than the model reads. Only its beginning counts.",
  implausible_values: "Some readings are far outside what the model was trained on.",
  filled_values: "Missing readings were filled in, so the band is wider.",
};
const OTHER = "The service warns of this answer.";

/** The list of an answer's warnings, hidden while there is none. */
export class Warnings {
  constructor(node = el("ul", { class: "warnings" })) {
    this.node = node;
    node.setAttribute("aria-live", "polite");
    this.show();
  }

  show(warnings = []) {
    this.node.hidden = !warnings.length;
    this.node.replaceChildren(...warnings.map(itemOf));
  }
}

function itemOf({ code, detail }) {
  const words = el("b", { t: SENTENCES[code] ?? OTHER });
  return el("li", {}, words, " ", el("span", { class: "small soft", lang: "en" }, detail));
}
