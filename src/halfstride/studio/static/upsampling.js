// The upsampling page: a layer, perhaps another beside it, their views, and the step that all of them show.

import { besideQuery, counts, readAddress, readOrigin, wholeQuery, written } from "./address.js";
import { controls } from "./controls.js";
import { ask, choice, count, find, html, newestOnly, standalone } from "./dom.js";
import { allowEditing } from "./editing.js";
import { allowExports, hideExports, showExports } from "./exports.js";
import { allowFullScreen } from "./fullscreen.js";
import { KINDS, matrixWords, originWords, say, verdict, WORDS } from "./saying.js";
import { Shown, VIEWS } from "./shown.js";
import { transport } from "./transport.js";

const { properties: ranges } = await ask("/api/layer/schema"); // of the arguments: layer.py has them
const TITLES = Object.fromEntries(VIEWS.map((name) => [name, find(`#${name}-title`).textContent]));

const state = readAddress();
let origin = readOrigin(state); // of numbers that come from a run's layer, until they are changed
let hovered = null;
let pinned = null;
let drawing = 0;
let telling = null; // the timer of the tables
const narrow = matchMedia("(max-width: 560px)");

for (const name of VIEWS) {
  const panel = html("section", { class: "panel", id: `second-${name}`, "data-view": name, "aria-labelledby": `second-${name}-title`, hidden: true },
    html("header", {}, html("h2", { id: `second-${name}-title` })), html("p", { class: "quiet", id: `second-${name}-words` }), html("div", { class: "drawing" }),
    name === "coverage" ? html("p", { class: "verdict", id: "second-verdict" }) : null);
  find(`#${name}`).after(panel);
}
const main = new Shown("");
const second = new Shown("second-"); // the layer beside

/** The layers that are shown, each with its answer. */
const all = () => [main, second].filter((one) => one.told);
const steps = () => Math.max(0, ...all().map((one) => one.steps(state.by)));
const turned = () => state.turned === "yes";

function showOrigin() {
  if (origin && (state.input !== origin.input || state.kernel !== origin.kernel)) origin = null;
  find("#origin").hidden = origin === null;
  if (origin === null) return;
  find("#origin").replaceChildren(...originWords(origin, state.input_size));
}

let newest = null; // the slider that was moved last

/** Begin a new entry of the browser's history; further moves of the same slider stay in one. */
function beginEntry(slider = null) {
  if (!standalone && (slider === null || slider !== newest)) history.pushState(null, "");
  newest = slider;
}

function writeAddress() {
  if (!standalone) history.replaceState(null, "", written(state, origin, playing()));
}

// Asking and drawing -----------------------------------------------------------------------------------------------

function refresh() {
  showControls();
  return askAndDraw();
}

/** While a request is being answered, only the newest change waits, so that the page keeps up with a dragged slider. */
const askAndDraw = newestOnly(async () => {
  try {
    const before = main.told && shape(main.told.layer);
    const beside = state.beside === "none" ? null : ask(`/api/layer?${besideQuery(state)}`, { packed: "beside" }).catch((error) => error);
    const [told, other] = [await ask(`/api/layer?${wholeQuery(state)}`), await beside];
    if (other instanceof Error) throw new Error(`Beside it: ${other.message}`);
    main.take(told);
    if (other) second.take(other);
    else second.clear();
    for (const name of VIEWS) second.panel(name).hidden = !other;
    if (state.step !== null && state.step >= steps()) state.step = null;
    hovered = pinned = null;
    showExports(state);
    if (shape(told.layer) !== before) cancelEditing(); // its number belongs to the earlier layer
    setStale(false);
    draw();
    showOrigin();
    find("#error").hidden = true;
  } catch (error) {
    stop();
    fail(error.message);
    setStale(true);
  }
  writeAddress();
});

function fail(message) {
  find("#error").textContent = message;
  find("#error").hidden = false;
}

/** A layer without its numbers. */
const shape = (layer) => JSON.stringify({ ...layer, input: null, kernel: null });

/** Hide all that belongs to an earlier layer, which keeps its room, and can be neither copied nor saved. */
function setStale(stale) {
  for (const id of ["#views", "#aside"]) {
    find(id).classList.toggle("stale", stale);
    for (const panel of find(id).querySelectorAll(".panel")) panel.inert = stale;
  }
  if (!stale) return;
  find("#code").textContent = "";
  find("#formula-title").textContent = "Size";
  for (const id of ["#formula", "#formula-note", "#verdict", "#second-verdict", "#said", "#second-said"]) find(id).replaceChildren();
  find("#costs tbody").replaceChildren();
  hideExports();
  for (const one of [main, second]) one.clear();
}

/** Draw all views: those on the screen first, the others two frames later. */
function draw() {
  const views = all().flatMap((one) => VIEWS.map((name) => ({ one, name })));
  const seen = views.map(({ one, name }) => one.panel(name).getBoundingClientRect()).map((box) => box.top < innerHeight && box.bottom > 0);
  const later = views.filter((_, place) => !seen[place]);
  const soon = views.filter((_, place) => seen[place]);
  soon.forEach(show);
  cancelAnimationFrame(drawing);
  find("#views").setAttribute("aria-busy", String(later.length > 0));
  if (later.length) {
    drawing = requestAnimationFrame(() => {
      drawing = requestAnimationFrame(() => {
        later.forEach(show);
        find("#views").setAttribute("aria-busy", "false");
        paint(later);
      });
    });
  }
  drawWords();
  paint(soon);
  count(find("#views"));
}

function show({ one, name }) {
  one.show(name, narrow.matches, turned());
  if (one === main && name === "scatter") settle();
}

function drawWords() {
  const { told } = main;
  for (const one of all()) {
    const { layer, coverage } = one.told;
    const words = { ...Object.fromEntries(["emulated", "phases"].map((name) => [name, WORDS[name][layer.form]])), coverage: WORDS.coverage[coverage.side] };
    for (const [name, text] of Object.entries(words)) find(`#${one.prefix}${name}-words`).textContent = text;
    find(`#${one.prefix}verdict`).replaceChildren(...verdict(coverage));
    for (const name of VIEWS) find(`#${one.prefix}${name}-title`).textContent = second.told ? `${TITLES[name]} · ${heading(one.told)}` : TITLES[name];
  }
  find("#second-scatter-words").textContent = find("#scatter .quiet").textContent;
  find("#formula").replaceChildren(
    ...told.formula.lines.map((line) =>
      html("div", {}, ...line.map(({ text, role }) => html("span", { class: role, text }))),
    ),
  );
  find("#formula-title").textContent = told.formula.name;
  find("#formula-note").textContent = told.formula.note;
  showMatrixWords();
  showCosts();
  showCode();
  find("#step").max = steps();
}

/** "Resize, 3×3 → 6×6". */
const heading = ({ layer, output_size: o }) =>
  `${KINDS[layer.form]}, ${[layer.input_size, o].map((size) => Array(layer.dims).fill(size).join("×")).join(" → ")}`;

function showMatrixWords() {
  for (const one of all()) find(`#${one.prefix}matrix-words`).textContent = matrixWords(one.told, turned());
}

function showCosts() {
  const { costs } = main.told;
  find("#costs").hidden = costs.length === 0;
  find("#costs tbody").replaceChildren(
    ...costs.map(({ algorithm, products, obstacle }) =>
      html("tr", { title: obstacle },
        html("th", { scope: "row", text: algorithm }),
        html("td", { text: products === null ? "not possible" : products.toLocaleString("en") }),
      ),
    ),
  );
}

const showCode = () => (find("#code").textContent = main.told.code[state.language]);

// The step, and highlighted cells -----------------------------------------------------------------------------------

function paint(views = all().flatMap((one) => VIEWS.map((name) => ({ one, name })))) {
  const done = state.step === null;
  for (const one of all()) {
    const now = one.moment(state.by, state.step, hovered ?? pinned);
    one.paint(now, views.filter((view) => view.one === one).map((view) => view.name));
    find(`#${one.prefix}said`).replaceChildren(...(second.told ? [`${KINDS[one.told.layer.form]}: `] : []), ...say(one, now.focus, now.done));
  }
  find("#second-said").hidden = !second.told;
  find("#step").value = done ? steps() : state.step;
  find("#step").setAttribute("aria-valuetext", done ? "all steps" : `step ${state.step + 1} of ${steps()}`);
  clearTimeout(telling);
  telling = setTimeout(() => all().forEach((one) => one.tell(turned())), 200); // not at every step of an animation or move of a slider
}

const { play, stop, playing, showSettings } = transport({
  state,
  steps,
  go(step) {
    pinned = null;
    state.step = step >= steps() ? null : Math.max(0, step);
    paint();
    changed();
  },
  changed,
});

/** What is only in the address and in the links has changed. */
function changed() {
  if (playing()) return; // a browser slows a page down that changes its address many times a second
  if (main.told) showExports(state);
  writeAddress();
}

// Changing things --------------------------------------------------------------------------------------------------

const { showArguments, showPreset } = controls(state, ranges, { change, begin });

function showControls() {
  showPictureViews();
  showExports(state);
  showArguments();
  setBy(state.by);
  setTurned(state.turned);
  setLanguage(state.language);
  showSettings();
}

/** The views that can be saved as pictures: those of the layer beside too. */
function showPictureViews() {
  const select = find("#picture-view");
  const before = select.value;
  const option = (prefix, form) => (name) => html("option", { value: `${prefix}${name}`, text: form ? `${TITLES[name]} · ${KINDS[form]}` : TITLES[name] });
  const beside = state.beside !== "none";
  select.replaceChildren(...VIEWS.map(option("", beside && state.form)), ...(beside ? VIEWS.map(option("second-", state.beside)) : []));
  if ([...select.options].some((one) => one.value === before)) select.value = before;
}

/** Show what an address says, in a new entry of the history; speed, loop and language stay. */
function begin(address) {
  stop();
  beginEntry();
  const { speed, loop, language } = state;
  Object.assign(state, readAddress(address), { speed, loop, language });
  origin = null;
  writeAddress();
  refresh();
}

/** Change arguments; edited numbers stay while their count fits. */
function change(changes) {
  stop();
  const names = Object.keys(changes);
  beginEntry(names.length === 1 && !["form", "dims"].includes(names[0]) ? names[0] : null);
  const before = counts(state);
  Object.assign(state, changes, { step: null });
  const after = counts(state);
  for (const name of ["input", "kernel"]) if (after[name] !== before[name] || "dims" in changes) state[name] = null;
  writeAddress();
  refresh();
}

const setBy = choice(find("#by"), (by) => {
  stop();
  state.by = by;
  state.step = null;
  showExports(state);
  showPreset();
  if (!main.told) return;
  find("#step").max = steps();
  paint();
  writeAddress();
});
const setTurned = choice(find("#turned"), (turned) => {
  state.turned = turned;
  showExports(state);
  const views = all().map((one) => ({ one, name: "matrix" }));
  views.forEach(show);
  paint(views);
  showMatrixWords();
  writeAddress();
});
const setLanguage = choice(find("#language"), (language) => {
  state.language = language;
  if (main.told) showCode();
  writeAddress();
});

for (const id of ["#shade", "#html-theme", "#picture-view"]) find(id).addEventListener("change", () => main.told && showExports(state));
find("#reset").addEventListener("click", () => {
  Object.assign(state, { speed: "1", loop: false, language: "pytorch" });
  begin(new URLSearchParams());
});
allowExports();
allowFullScreen();

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, .spot, pre, a, [tabindex='0']")) return;
  if (event.key === " " && !event.target.closest("button")) play();
  else if (event.key === "ArrowRight") find("#forward").click();
  else if (event.key === "ArrowLeft") find("#back").click();
  else return;
  event.preventDefault();
});

// After a click with the mouse no control keeps the focus, so that Space plays.
document.addEventListener("click", (event) => {
  if (event.detail === 0) return;
  setTimeout(() => document.activeElement?.matches(".keys button, .choice input, .loop input, .screen") && document.activeElement.blur());
});

// Pointing at cells ------------------------------------------------------------------------------------------------

const pointedAt = (event) => all().map((one) => one.at(event)).find(Boolean) ?? null;
const same = (one, other) => one?.of === other?.of && one?.kind === other?.kind && one?.index === other?.index;
const editable = (found) => Boolean(found?.editable) && found.of === main && !standalone;

find("#views").addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch" || playing() || !main.told) return;
  const found = pointedAt(event);
  find("#scatter .sheet").classList.toggle("editable", editable(found));
  if (same(found, hovered)) return;
  hovered = found;
  paint();
});
find("#views").addEventListener("pointerleave", () => {
  if (hovered && main.told) {
    hovered = null;
    paint();
  }
});
find("#views").addEventListener("click", (event) => {
  if (!main.told || event.target.closest(".transport, .editor, .screen")) return;
  const found = pointedAt(event);
  if (editable(found)) return edit(found);
  stop();
  pinned = same(found, pinned) ? null : found; // a touch screen has no hovering
  paint();
});

const { edit, settle, cancel: cancelEditing } = allowEditing(main, {
  begin: stop,
  focus(kind, index) {
    pinned = { of: main, kind, index };
    paint();
  },
  take(kind, index, number) {
    beginEntry();
    state[kind] = main.told[kind].with(index, number).join(",");
    writeAddress();
    refresh();
  },
  refuse: fail,
});

narrow.addEventListener("change", () => {
  cancelEditing();
  if (main.told) draw();
});
addEventListener("popstate", () => {
  stop();
  newest = null;
  cancelEditing();
  Object.assign(state, readAddress());
  origin = readOrigin(state);
  refresh();
});
refresh();
