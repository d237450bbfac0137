// What an empty conversation shows: what the model knows, and questions to begin with.

import { byId, element } from "./dom.js";

const SHOWN = 4;
const GENERAL = {
  about: "",
  questions: [
    "Why is the sky blue?",
    "Write a Python function that checks whether a word is a palindrome.",
    "Explain peer-to-peer networks in three sentences.",
    "Give me three ideas for a rainy afternoon.",
  ],
};

/** Shows questions for the model; `ask` is called with the one that is chosen. */
export function showWelcome(known, ask) {
  const { about, questions } = known ?? GENERAL;
  byId("about").textContent = about;
  byId("about").hidden = !about;
  const make = (question) => {
    const button = element("button", { type: "button", text: question, on: { click: () => ask(question) } });
    return element("li", {}, button);
  };
  byId("examples").replaceChildren(...questions.slice(0, SHOWN).map(make));
  byId("more").hidden = questions.length <= SHOWN;
  byId("more-count").textContent = `All ${questions.length} questions`;
  byId("all-examples").replaceChildren(...(questions.length > SHOWN ? questions.map(make) : []));
}
