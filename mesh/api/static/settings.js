// The drawer: instructions, sampling, colours. Kept in this browser; the key never is.

import { byId, element, icon } from "./dom.js";

const KEPT = "mesh.settings";
const MAX_STOPS = 8;
const MAX_STOP_LENGTH = 512;
const THEMES = { "": ["auto", "as the system has them"], light: ["light", "light"], dark: ["dark", "dark"] };
const DEFAULTS = { temperature: "0" };

/** Fields of the form, and what they are called in a request. */
const NUMBERS = {
  temperature: "temperature", "top-p": "top_p", "top-k": "top_k", "min-p": "min_p",
  "max-tokens": "max_completion_tokens", seed: "seed",
};
const FIELDS = ["system", ...Object.keys(NUMBERS), "stop"];
const SWITCHES = ["receipts"];

/** A setting that cannot be sent; `field` is the input with it. */
export class BadSetting extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Returns the system message, the sampling, and whether hosters are to sign. Throws BadSetting. */
export function readSettings() {
  const sampling = {};
  for (const [id, name] of Object.entries(NUMBERS)) {
    const field = byId(id);
    if (!field.validity.valid) throw new BadSetting(field, `${getLabel(field)}: ${field.validationMessage}`);
    if (field.value !== "") sampling[name] = field.valueAsNumber;
  }
  const stop = readStops();
  if (stop.length) sampling.stop = stop;
  return { system: byId("system").value.trim(), sampling, wantsReceipt: byId("receipts").checked };
}

/** One sequence a line; \n in it is a new line. */
function readStops() {
  const field = byId("stop");
  const stops = field.value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  if (stops.length > MAX_STOPS) throw new BadSetting(field, `Stop sequences: at most ${MAX_STOPS}.`);
  if (stops.some((stop) => stop.length > MAX_STOP_LENGTH)) {
    throw new BadSetting(field, `Stop sequences: at most ${MAX_STOP_LENGTH} characters each.`);
  }
  return stops;
}

function getLabel(field) {
  return field.labels[0].querySelector(".name").textContent;
}

export function openSettings(field = null) {
  if (!byId("settings").open) byId("settings").showModal();
  field?.focus();
}

/** Fills the drawer with what was kept and keeps what is changed. `onChange` is called at each change. */
export function startSettings(onChange) {
  const drawer = byId("settings");
  fill({ ...DEFAULTS, ...readKept() });
  const change = () => {
    const values = [...FIELDS.map((id) => [id, byId(id).value]), ...SWITCHES.map((id) => [id, byId(id).checked])];
    write(KEPT, JSON.stringify(Object.fromEntries(values)));
    const isChanged = ([id, value]) => value !== (DEFAULTS[id] ?? (SWITCHES.includes(id) ? false : ""));
    byId("settings-toggle").classList.toggle("changed", values.some(isChanged));
    onChange();
  };
  for (const id of [...FIELDS, ...SWITCHES]) byId(id).addEventListener("input", change);
  byId("defaults").addEventListener("click", () => {
    fill(DEFAULTS);
    change();
  });
  byId("settings-toggle").addEventListener("click", () => openSettings());
  byId("settings-close").addEventListener("click", () => drawer.close());
  // A click beside the drawer is a click on the dialog itself.
  drawer.addEventListener("click", (event) => event.target === drawer && drawer.close());
  byId("settings-form").addEventListener("submit", (event) => {
    event.preventDefault();
    drawer.close();
  });
  startThemes();
  change();
}

function fill(values) {
  for (const id of FIELDS) byId(id).value = typeof values[id] === "string" ? values[id] : "";
  for (const id of SWITCHES) byId(id).checked = values[id] === true;
}

function readKept() {
  try {
    const kept = JSON.parse(read(KEPT) ?? "{}");
    return kept && typeof kept === "object" ? kept : {};
  } catch {
    return {};
  }
}

function startThemes() {
  const button = byId("theme");
  const show = (theme) => {
    const [name, words] = THEMES[theme];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.replaceChildren(icon(name), element("span", { className: "hidden", text: `Colours: ${words}` }));
    button.title = `Colours: ${words}`;
  };
  const names = Object.keys(THEMES);
  let theme = read("mesh.theme") ?? "";
  if (!names.includes(theme)) theme = "";
  show(theme);
  button.addEventListener("click", () => {
    theme = names[(names.indexOf(theme) + 1) % names.length];
    write("mesh.theme", theme);
    show(theme);
  });
}

/** localStorage, where the browser allows it. */
export function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function write(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Full or refused: the page goes on without it.
  }
}
