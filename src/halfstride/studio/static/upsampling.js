// The upsampling page: a layer, its views, and the step that all of them show.

import { position as at, Sheet, textOf } from "./cells.js";
import { ask, choice, count, find, html, newestOnly, query as given, standalone, working, written } from "./dom.js";
import { tables } from "./tables.js";
import * as views from "./views.js";

const SLIDERS = [
  { name: "input_size", text: "input size", of: "input" },
  { name: "kernel_size", text: "kernel size", of: "kernel" },
  { name: "stride", text: "stride", scale: "scale factor" },
  { name: "padding", text: "padding" },
  { name: "dilation", text: "dilation" },
  { name: "output_padding", text: "output padding", only: "transposed" },
];
const { properties: ranges } = await ask("/api/layer/schema"); // of the arguments: layer.py has them
const START = {
  conv: { input_size: 7, kernel_size: 3, stride: 2, padding: 1 },
  transposed: { input_size: 3, kernel_size: 3, stride: 2, padding: 0 },
  resize: { input_size: 3, kernel_size: 3, stride: 2, padding: 1 },
  subpixel: { input_size: 3, kernel_size: 3, stride: 2, padding: 1 },
};
const WORDS = {
  emulated: {
    conv: "The kernel slides over the padded input by the stride.",
    transposed: "The same as a convolution of stride 1: the flipped kernel slides over the input with zeros between and around it.",
    resize: "Every input value is repeated by the scale factor, then the kernel slides over the result.",
    subpixel: "Each kernel slides over the input, and the results are interleaved to one output (pixel shuffle).",
  },
  phases: {
    conv: "Inputs with the same index modulo the stride are multiplied by the same taps.",
    transposed: "Outputs with the same index modulo the stride use the same taps: each phase is a small convolution of stride 1.",
    resize: "Taps that meet the same input value are summed beforehand: each phase is a small convolution of stride 1.",
    subpixel: "Each phase is a convolution of stride 1 with its own kernel.",
  },
  coverage: {
    output: "Number of products at each output.",
    input: "Number of products that use each input.",
  },
};
const VIEWS = ["scatter", "emulated", "phases", "matrix", "coverage"];
const PLAY = "M4 2v12l10-6z";
const PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";

const state = readAddress();
let origin = readOrigin(); // of numbers that come from a run's layer, until they are changed
let told = null;
let related = null;
let hovered = null;
let pinned = null;
let timer = null;
let drawing = 0;
let telling = null; // the timer of the tables
let editing = null; // closes the field in which a number is edited
const sheets = Object.fromEntries(VIEWS.map((name) => [name, new Sheet(find(`#${name} .drawing`))]));
const narrow = matchMedia("(max-width: 560px)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// The address ------------------------------------------------------------------------------------------------------

function defaults(form) {
  return { form, dims: "2", ...START[form], dilation: 1, output_padding: 0, input: null, kernel: null };
}

function readAddress(address = given()) {
  const form = address.get("form") in START ? address.get("form") : "transposed";
  const found = { ...defaults(form), by: "inputs", step: null, turned: "no", language: "pytorch" };
  for (const { name } of SLIDERS) {
    if (/^\d{1,3}$/.test(address.get(name) ?? "")) found[name] = Number(address.get(name));
  }
  if (address.get("dims") === "1") found.dims = "1";
  for (const name of ["input", "kernel"]) if (address.get(name)) found[name] = address.get(name);
  if (address.get("by") === "outputs") found.by = "outputs";
  if (address.get("matrix") === "turned") found.turned = "yes";
  if (/^\d{1,4}$/.test(address.get("step") ?? "")) found.step = Number(address.get("step"));
  if (address.get("code") === "halfstride") found.language = "halfstride";
  return found;
}

/** Where the network page took input and kernel from; null where they are not from there. */
function readOrigin() {
  const address = given();
  const found = Object.fromEntries(["run", "image", "from", "channels", "corner"].map((name) => [name, address.get(name) ?? ""]));
  const pair = /^\d{1,9},\d{1,9}$/;
  const whole = pair.test(found.channels) && pair.test(found.corner) && /^\d{1,9}$/.test(found.image) && found.run && found.from;
  return whole && state.input && state.kernel ? { ...found, input: state.input, kernel: state.kernel } : null;
}

function showOrigin() {
  if (origin && (state.input !== origin.input || state.kernel !== origin.kernel)) origin = null;
  find("#origin").hidden = origin === null;
  if (origin === null) return;
  const { run, image, from, channels, corner } = origin;
  const [source, target] = channels.split(",");
  const [top, left] = corner.split(",").map(Number);
  const end = Number(state.input_size) - 1;
  const link = html("a", { href: `/network?${new URLSearchParams({ run, image })}`, text: run });
  find("#origin").replaceChildren(`Layer ${from} of `, link, `: `, ink("input", `rows ${top}–${top + end}, columns ${left}–${left + end} of its input channel ${source}`),
    ` for image ${image}, and `, ink("kernel", `the kernel from it to output channel ${target}`),
    ". The layer adds the other input channels and a bias, and at the edges of this patch it sees the input around it.");
}

function layerQuery() {
  const query = new URLSearchParams();
  const usual = defaults(state.form);
  if (state.form !== "transposed") query.set("form", state.form);
  for (const name of ["dims", ...SLIDERS.map((one) => one.name), "input", "kernel"]) {
    if (state[name] !== usual[name] && state[name] !== null) query.set(name, state[name]);
  }
  return query;
}

/** The whole layer, with the defaults of this page, for the server. */
function wholeQuery() {
  const query = new URLSearchParams({ form: state.form, dims: state.dims });
  // A setting that another kind of layer does not have is kept for when the kind is changed back.
  for (const { name, only } of SLIDERS) if (!only || only === state.form) query.set(name, state[name]);
  for (const name of ["input", "kernel"]) if (state[name]) query.set(name, state[name]);
  return query;
}

let newest = null; // the slider that was moved last

/** Begin a new entry of the browser's history; further moves of the same slider stay in one. */
function beginEntry(slider = null) {
  if (!standalone && (slider === null || slider !== newest)) history.pushState(null, "");
  newest = slider;
}

function writeAddress() {
  if (standalone) return;
  const query = layerQuery();
  if (state.by !== "inputs") query.set("by", state.by);
  if (state.step !== null && timer === null) query.set("step", state.step);
  if (state.turned === "yes") query.set("matrix", "turned");
  if (state.language !== "pytorch") query.set("code", state.language);
  if (origin) for (const name of ["run", "image", "from", "channels", "corner"]) query.set(name, origin[name]);
  const text = query.toString().replaceAll("%2C", ",");
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

// Asking and drawing -----------------------------------------------------------------------------------------------

function refresh() {
  showControls();
  return askAndDraw();
}

/** While a request is being answered, only the newest change waits, so that the page keeps up with a dragged slider. */
const askAndDraw = newestOnly(async () => {
  try {
    const before = told && shape(told.layer);
    told = await ask(`/api/layer?${wholeQuery()}`);
    showExport();
    if (shape(told.layer) !== before) editing?.(false); // its number belongs to the earlier layer
    setStale(false);
    relate();
    draw();
    showOrigin();
    find("#error").hidden = true;
  } catch (error) {
    stop();
    find("#error").textContent = error.message;
    find("#error").hidden = false;
    setStale(true);
  }
  writeAddress();
});

/** A layer without its numbers. */
const shape = (layer) => JSON.stringify({ ...layer, input: null, kernel: null });

function showExport() {
  const shade = find("#shade input:checked").value;
  for (const link of document.querySelectorAll("#export a")) {
    const query = wholeQuery();
    query.set("format", link.dataset.format);
    query.set("view", state.by === "inputs" ? "scatter" : "sliding");
    query.set("theme", shade);
    link.href = `/api/layer/animation?${query}`;
  }
  const page = wholeQuery();
  page.set("by", state.by);
  page.set("theme", find("#html-theme input:checked").value);
  find("#export-html").href = `/api/layer/page?${page}`;
  find("#export-by").textContent = state.by === "inputs" ? "by input" : "by output";
}

/** Hide all that belongs to an earlier layer, which keeps its room, and can be neither copied nor saved. */
function setStale(stale) {
  for (const id of ["#views", "#aside"]) {
    find(id).classList.toggle("stale", stale);
    for (const panel of find(id).querySelectorAll(".panel")) panel.inert = stale;
  }
  if (!stale) return;
  told = null;
  find("#code").textContent = "";
  find("#formula-title").textContent = "Size";
  for (const id of ["#formula", "#formula-note", "#verdict", "#said"]) find(id).replaceChildren();
  find("#costs tbody").replaceChildren();
  for (const link of document.querySelectorAll("#export a")) link.removeAttribute("href");
  for (const sheet of Object.values(sheets)) sheet.clear();
}

/** The products of every cell, found once for every answer. */
function relate() {
  related = { input: new Map(), kernel: new Map(), output: new Map() };
  for (const [kind, column] of [["input", told.terms.i], ["kernel", told.terms.t], ["output", told.terms.j]]) {
    column.forEach((index, place) => {
      if (!related[kind].has(index)) related[kind].set(index, []);
      related[kind].get(index).push(place);
    });
  }
  if (state.step !== null && state.step >= steps()) state.step = null;
  hovered = pinned = null;
}

/** The products of a cell: their places in the columns of `told.terms`. */
const touching = (kind, index) => related[kind].get(index) ?? [];

const steps = () => (state.by === "inputs" ? told.input.length : told.output.length);

/** Draw all views: those on the screen first, the others two frames later. */
function draw() {
  const seen = VIEWS.map((name) => find(`#${name}`).getBoundingClientRect()).map((box) => box.top < innerHeight && box.bottom > 0);
  const later = VIEWS.filter((_, place) => !seen[place]);
  for (const name of VIEWS) if (!later.includes(name)) show(name);
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
  paint(VIEWS.filter((name) => !later.includes(name)));
  count(find("#views"));
}

function show(name) {
  sheets[name].show(views[name](told, narrow.matches, state.turned === "yes"));
  if (name === "scatter") for (const kind of ["input", "kernel"]) stand(kind, Number(buttons[kind].dataset.index));
}

function drawWords() {
  find("#emulated-words").textContent = WORDS.emulated[told.layer.form];
  find("#phases-words").textContent = WORDS.phases[told.layer.form];
  find("#coverage-words").textContent = WORDS.coverage[told.coverage.side];
  find("#verdict").replaceChildren(...verdict(told.coverage));
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

function showMatrixWords() {
  const rows = told.output.length;
  const columns = told.input.length;
  const share = Math.round((100 * told.matrix.value.length) / (rows * columns));
  find("#matrix-words").textContent =
    state.turned === "yes"
      ? `The transposed matrix, ${columns} × ${rows}: a ${
          told.layer.form === "conv" ? "transposed convolution" : "strided convolution"
        } with the same kernel, from the output's size to the input's.`
      : `The layer as a matrix of ${rows} × ${columns}; ${share} % of its entries are used.`;
}

function showCosts() {
  find("#costs").hidden = told.costs.length === 0;
  find("#costs tbody").replaceChildren(
    ...told.costs.map(({ algorithm, products, obstacle }) =>
      html("tr", { title: obstacle },
        html("th", { scope: "row", text: algorithm }),
        html("td", { text: products === null ? "not possible" : products.toLocaleString("en") }),
      ),
    ),
  );
}

function verdict({ verdict: text, even, checkerboard }) {
  const end = text.search(/[:,]/);
  const mark = even && !checkerboard ? "✓ " : "⚠ ";
  return [html("strong", { text: mark + text.slice(0, end) }), text.slice(end)];
}

const showCode = () => (find("#code").textContent = told.code[state.language]);

// The step, and highlighted cells -----------------------------------------------------------------------------------

function spot(kind, index) {
  const { dims, kernel_size: k, input_size: n } = told.layer;
  const size = kind === "input" ? n : kind === "output" ? told.output_size : k;
  if (kind === "kernel" && told.kernels > 1) {
    const taps = k ** dims;
    return `[${Math.floor(index / taps)}: ${at(index % taps, k, dims)}]`;
  }
  return `[${at(index, size, dims)}]`;
}

function paint(names = VIEWS) {
  const done = state.step === null;
  const cursor = done ? steps() - 1 : state.step;
  const stepped = done ? null : { kind: state.by === "inputs" ? "input" : "output", index: cursor };
  const focus = hovered ?? pinned ?? stepped;
  const reached = done ? null : reachedBy(cursor);
  const touched = new Set(focus?.kind === "input" ? outputsOf(focus.index) : []);
  const now = { by: state.by, done, cursor, focus, reached, touched, lit: new Set(focus ? lit(focus) : []) };
  for (const name of names) sheets[name].paint(now);
  find("#step").value = done ? steps() : cursor;
  find("#step").setAttribute("aria-valuetext", done ? "all steps" : `step ${cursor + 1} of ${steps()}`);
  find("#said").replaceChildren(...say(focus, done));
  clearTimeout(telling);
  telling = setTimeout(writeTables, 200); // not at every step of an animation or move of a slider
}

/** The numbers of the views as tables, for those who do not see them. */
function writeTables() {
  if (told) for (const name of VIEWS) sheets[name].tell(tables(name, told, sheets[name].drawing.cells, state.turned === "yes"));
}

const outputsOf = (input) => touching("input", input).map((place) => told.terms.j[place]);

/** Outputs with at least one product after this step. */
function reachedBy(cursor) {
  const first = [...Array(cursor + 1).keys()];
  return new Set(state.by === "outputs" ? first : first.flatMap(outputsOf));
}

/** The keys of all cells that are highlighted with a cell. */
function lit(focus) {
  if (focus.kind === "phase") {
    return told.phases.kernels[focus.index].positions.map((position) => `${told.phases.side} ${position}`);
  }
  const { i, t, j } = told.terms;
  if (focus.kind === "entry") {
    const [row, column] = focus.index.split(",").map(Number);
    const taps = touching("output", row).filter((place) => i[place] === column);
    return [`entry ${focus.index}`, `input ${column}`, `output ${row}`, ...taps.map((place) => `kernel ${t[place]}`)];
  }
  const keys = [`${focus.kind} ${focus.index}`];
  for (const place of touching(focus.kind, focus.index)) {
    keys.push(`entry ${j[place]},${i[place]}`);
    if (focus.kind !== "input") keys.push(`input ${i[place]}`);
    if (focus.kind !== "kernel") keys.push(`kernel ${t[place]}`);
    if (focus.kind === "kernel") keys.push(`output ${j[place]}`);
  }
  return keys;
}

const ink = (kind, text) => html("span", { class: `${kind}-ink`, text });

/** One line about the highlighted cell. */
function say(focus, done) {
  if (!focus) {
    return [
      ink("input", `${told.input.length} inputs`), ", ", ink("kernel", `${told.kernel.length} taps`), ", ",
      ink("output", `${told.output.length} outputs`), `: ${told.terms.product.length} products. `,
      done ? "Play, or step with the arrow keys." : "",
    ];
  }
  if (focus.kind === "output") {
    const terms = touching("output", focus.index);
    const sum = terms.flatMap((place, at) => [
      at ? " + " : "",
      ink("input", bracketed(told.input[told.terms.i[place]])), " · ", ink("kernel", bracketed(told.kernel[told.terms.t[place]])),
    ]);
    const total = ink("output", written(told.output[focus.index]));
    return [ink("output", `output ${spot("output", focus.index)}`), " = ", ...(terms.length ? [...sum, " = "] : []), total];
  }
  if (focus.kind === "input") {
    const { i, contribution } = told.matrix;
    const landing = contribution.filter((_, place) => i[place] === focus.index);
    const value = ink("input", `input ${spot("input", focus.index)} = ${written(told.input[focus.index])}`);
    return [value, " times ", ink("kernel", "the kernel"), ` is added to ${counted(landing.length, "output")}: `, landing.map(written).join(", ")];
  }
  if (focus.kind === "kernel") {
    const terms = touching("kernel", focus.index);
    return [ink("kernel", `kernel ${spot("kernel", focus.index)} = ${written(told.kernel[focus.index])}`),
      ` is part of ${counted(terms.length, "product")}.`];
  }
  if (focus.kind === "phase") {
    const phase = told.phases.kernels[focus.index];
    return [`Phase ${phase.remainder.join(", ")} has gain ${written(phase.gain)}: its output for a constant input of 1.`];
  }
  const [j, i] = focus.index.split(",").map(Number);
  const value = told.matrix.value.find((_, place) => told.matrix.j[place] === j && told.matrix.i[place] === i);
  return [`One unit of `, ink("input", `input ${spot("input", i)}`), ` adds ${written(value)} to `,
    ink("output", `output ${spot("output", j)}`), "."];
}

const bracketed = (value) => (value < 0 ? `(${written(value)})` : written(value));
const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

function go(step) {
  pinned = null;
  state.step = step >= steps() ? null : Math.max(0, step);
  paint();
  writeAddress();
}

const position = () => (state.step === null ? steps() : state.step);

function play() {
  if (timer !== null) return stop();
  if (!told) return;
  if (state.step === null) go(0);
  timer = setInterval(
    () => {
      go(position() + 1);
      if (state.step === null) stop();
    },
    Math.max(calm.matches ? 700 : 90, Math.min(900, 14000 / steps())),
  );
  showPlaying(true);
}

function stop() {
  if (timer === null) return;
  clearInterval(timer);
  timer = null;
  showPlaying(false);
  writeAddress();
}

function showPlaying(playing) {
  find("#play").setAttribute("aria-label", playing ? "Pause" : "Play");
  find("#play path").setAttribute("d", playing ? PAUSE : PLAY);
}

// Changing things --------------------------------------------------------------------------------------------------

const sliders = new Map();
for (const { name, text, of } of SLIDERS) {
  const input = html("input", { type: "range", min: ranges[name].minimum, name, id: name, "aria-label": text });
  const output = html("output", { for: name });
  const title = html("b", { class: of ? `${of}-ink` : "" , text });
  const row = html("label", { class: `slider ${of ? `of-${of}` : ""}` }, html("span", {}, title, output), input);
  input.addEventListener("input", () => change({ [name]: Number(input.value) }));
  sliders.set(name, { row, input, output, title });
  find("#sliders").append(row);
}

function showControls() {
  showExport();
  setForm(state.form);
  setDims(state.dims);
  setBy(state.by);
  setTurned(state.turned);
  setLanguage(state.language);
  for (const { name, text, scale, only } of SLIDERS) {
    const { row, input, output, title } = sliders.get(name);
    input.max = Math.max(ranges[name].sliders[state.dims - 1], state[name]);
    input.value = state[name];
    output.textContent = state[name];
    title.textContent = scale && ["resize", "subpixel"].includes(state.form) ? scale : text;
    input.ariaLabel = title.textContent;
    row.classList.toggle("off", Boolean(only) && only !== state.form);
  }
}

/** How many numbers an input and a kernel have. */
const counts = ({ form, dims, input_size: n, kernel_size: k, stride }) => ({
  input: n ** dims, kernel: k ** dims * (form === "subpixel" ? stride ** dims : 1),
});

/** Change arguments; edited numbers stay while their count fits. */
function change(changes) {
  stop();
  beginEntry(Object.keys(changes).find((name) => name in ranges && !["form", "dims"].includes(name)));
  const before = counts(state);
  Object.assign(state, changes, { step: null });
  const after = counts(state);
  for (const name of ["input", "kernel"]) if (after[name] !== before[name] || "dims" in changes) state[name] = null;
  writeAddress();
  refresh();
}

const setForm = choice(find("#form"), (form) => change({ form }));
const setDims = choice(find("#dims"), (dims) => change({ dims }));
const setBy = choice(find("#by"), (by) => {
  stop();
  state.by = by;
  state.step = null;
  showExport();
  if (!told) return;
  find("#step").max = steps();
  paint();
  writeAddress();
});
const setTurned = choice(find("#turned"), (turned) => {
  state.turned = turned;
  if (told) {
    show("matrix");
    paint(["matrix"]);
    showMatrixWords();
  }
  writeAddress();
});
const setLanguage = choice(find("#language"), (language) => {
  state.language = language;
  if (told) showCode();
  writeAddress();
});

choice(find("#shade"), showExport);
choice(find("#html-theme"), showExport);
find("#reset").addEventListener("click", () => {
  stop();
  beginEntry();
  Object.assign(state, readAddress(new URLSearchParams()));
  writeAddress();
  origin = readOrigin();
  refresh();
});
find("#share").addEventListener("click", (event) => copy(location.href, event.currentTarget));
find("#copy").addEventListener("click", (event) => copy(find("#code").textContent, event.currentTarget));
find("#play").addEventListener("click", play);
find("#back").addEventListener("click", () => (stop(), told && go(position() - 1)));
find("#forward").addEventListener("click", () => (stop(), told && go(state.step === null ? 0 : state.step + 1)));
find("#step").addEventListener("input", (event) => (stop(), told && go(Number(event.target.value))));

for (const link of document.querySelectorAll("#export a")) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    if (!link.href || link.ariaBusy === "true") return;
    link.ariaBusy = "true";
    find("#export-error").hidden = true;
    try {
      await working(find("#export-work"), "Drawing the animation", save(link.href));
    } catch (error) {
      find("#export-error").textContent = error.message;
      find("#export-error").hidden = false;
    }
    link.ariaBusy = "false";
  });
}

/** Save what an address answers as a file, under the name that the server gives it. */
async function save(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `The server answers ${response.status}.`);
  const [, name] = /filename="([^"]+)"/.exec(response.headers.get("content-disposition"));
  const file = URL.createObjectURL(await response.blob());
  html("a", { href: file, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(file), 60_000);
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = before), 1400);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, .spot, pre, a, [tabindex='0']")) return;
  if (event.key === " " && !event.target.closest("button")) play();
  else if (event.key === "ArrowRight") find("#forward").click();
  else if (event.key === "ArrowLeft") find("#back").click();
  else return;
  event.preventDefault();
});

// After a click with the mouse no control keeps the focus, so that Space plays.
document.addEventListener("click", (event) => {
  if (event.detail === 0) return;
  setTimeout(() => document.activeElement?.matches(".keys button, .choice input") && document.activeElement.blur());
});

// Pointing at cells ------------------------------------------------------------------------------------------------

const pointedAt = (event) => sheets[event.target.closest(".drawing")?.parentElement.id]?.at(event) ?? null;
const same = (one, other) => one?.kind === other?.kind && one?.index === other?.index;

find("#views").addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch" || timer !== null || !told) return;
  const found = pointedAt(event);
  find("#scatter .sheet").classList.toggle("editable", Boolean(found?.editable) && !standalone);
  if (same(found, hovered)) return;
  hovered = found;
  paint();
});
find("#views").addEventListener("pointerleave", () => {
  if (hovered && told) {
    hovered = null;
    paint();
  }
});
find("#views").addEventListener("click", (event) => {
  if (!told || event.target.closest(".transport, .editor")) return;
  const found = pointedAt(event);
  if (found?.editable && !standalone) return edit(found);
  stop();
  pinned = same(found, pinned) ? null : found; // a touch screen has no hovering
  paint();
});

// For the keyboard: a button over a number of the input and one over a number of the kernel; arrow keys move them.
const buttons = {};
for (const kind of ["input", "kernel"]) {
  buttons[kind] = html("button", { type: "button", class: "spot", "data-kind": kind, "data-index": 0 });
  buttons[kind].addEventListener("focus", () => {
    if (!told) return;
    pinned = { kind, index: Number(buttons[kind].dataset.index) };
    paint();
  });
  find("#scatter .sheet").append(buttons[kind]);
}

const cellOf = (kind, index) => sheets.scatter.drawing.cells.find((one) => one.editable && same(one, { kind, index }));

/** Move the button over a number of the input or the kernel; says whether there is such a number. */
function stand(kind, index) {
  const found = cellOf(kind, index) ?? cellOf(kind, 0);
  sheets.scatter.cover(buttons[kind], found);
  buttons[kind].dataset.index = found.index;
  buttons[kind].setAttribute("aria-label", `${kind} ${spot(kind, found.index)}: ${textOf(found)}.${standalone ? "" : " Change it."}`);
  return found.index === index;
}

find("#scatter").addEventListener("keydown", (event) => {
  if (!event.target.matches(".spot")) return;
  const { kind } = event.target.dataset;
  const index = Number(event.target.dataset.index);
  const { input_size: n, kernel_size: k, dims } = told.layer;
  // With one axis the input is drawn as a column, and the kernel as a row.
  const row = dims === 2 ? { input: n, kernel: k }[kind] : { input: 1, kernel: 0 }[kind];
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row };
  if (event.key in moves) {
    if (!stand(kind, index + moves[event.key])) stand(kind, index);
    pinned = { kind, index: Number(event.target.dataset.index) };
    paint();
  } else if (event.key === "Enter" || event.key === " ") edit(cellOf(kind, index));
  else if (/^[-0-9.]$/.test(event.key)) edit(cellOf(kind, index), event.key);
  else return;
  event.preventDefault();
});

/** Show a field over the cell. Enter, or leaving the field, accepts the number; Escape does not. */
function edit(cell, first = null) {
  if (standalone) return; // what follows from another number only the server knows
  stop();
  const { kind, index } = cell;
  const field = html("input", {
    class: "editor", type: "text", inputmode: "decimal", "aria-label": `New value of ${kind} ${spot(kind, index)}`,
  });
  field.value = first ?? String(told[kind][index]);
  sheets.scatter.cover(field, cell);
  stand(kind, index);
  find("#scatter .sheet").append(field);
  field.focus();
  if (first === null) field.select();
  editing = (take) => {
    editing = null;
    const text = field.value.trim().replace(",", ".").replace("−", "-");
    field.remove();
    if (!take || text === String(told[kind][index])) return;
    if (text === "" || !Number.isFinite(Number(text))) {
      find("#error").textContent = `“${text}” is not a number: type one such as 3 or −0.5.`;
      find("#error").hidden = false;
      return;
    }
    beginEntry();
    state[kind] = told[kind].with(index, Number(text)).join(",");
    writeAddress();
    refresh();
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Enter" && event.key !== "Escape") return;
    editing?.(event.key === "Enter");
    buttons[kind].focus({ preventScroll: true });
  });
  field.addEventListener("blur", () => editing?.(true));
}

narrow.addEventListener("change", () => {
  editing?.(false);
  if (told) draw();
});
addEventListener("popstate", () => {
  stop();
  newest = null;
  editing?.(false);
  Object.assign(state, readAddress());
  origin = readOrigin();
  refresh();
});
refresh();
