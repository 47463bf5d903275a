// The checkerboard page: a picture through stacked upsampling layers, beside plain enlargements.

import { ask, choice, count, find, html, newestOnly, working } from "./dom.js";
import { paint, picture } from "./paint.js";
import { listRuns, onPicture } from "./runs.js";

const FORMS = { transposed: "transposed convolution", resize: "resize-convolution", subpixel: "sub-pixel convolution" };
const START = { form: "transposed", layers: "2", kernel_size: 3, stride: 2, padding: 1, kernel: "random", seed: 0 };
const SLIDERS = [
  { name: "kernel_size", text: "kernel size", least: 1, most: 7 },
  { name: "stride", text: "stride", least: 2, most: 4 },
  { name: "padding", text: "padding", least: 0, most: 3 },
];
const CHOICES = { form: Object.keys(FORMS), layers: ["1", "2", "3"], kernel: ["random", "ones", "bilinear"] };

const given = new URLSearchParams(location.search);
const whole = (name, least, most) => (/^\d{1,4}$/.test(given.get(name) ?? "") && given.get(name) >= least && given.get(name) <= most ? Number(given.get(name)) : null);
const state = { ...START };
for (const [name, values] of Object.entries(CHOICES)) if (values.includes(given.get(name))) state[name] = given.get(name);
for (const { name, least, most } of [...SLIDERS, { name: "seed", least: 0, most: 9999 }]) state[name] = whole(name, least, most) ?? state[name];
let source = given.has("image") ? given.get("run") : null; // a run whose test image is taken; null for a picture
let image = whole("image", 0, 9999) ?? 0;
let own = null; // an uploaded picture
let told = null;

// Asking -----------------------------------------------------------------------------------------------------------

const layers = () => new URLSearchParams(state);

function address() {
  if (source === null) return `/api/checkerboard?${layers()}`;
  return `/api/runs/${encodeURIComponent(source)}/checkerboard?${layers()}&index=${image}`;
}

/** While a request is being answered, only the newest change waits. */
const refresh = newestOnly(async () => {
  showControls();
  find("#enlargements").ariaBusy = "true";
  try {
    told = await working(find("#working"), "Computing", ask(address(), source === null && own ? { body: own } : {}));
    find("#error").hidden = true;
    show();
  } catch (error) {
    told = null;
    find("#error").textContent = error.message;
    find("#error").hidden = false;
    for (const place of ["#compared", "#stages", "#what"]) find(place).replaceChildren();
  }
  find("#enlargements").ariaBusy = "false";
  count(find("#enlargements"));
});

function change(changes) {
  Object.assign(state, changes);
  refresh();
}

// What is seen -----------------------------------------------------------------------------------------------------

const percent = (share) => `${(100 * share).toPrecision(2)} %`;

/** The doctor's answer: found, not found, or could not judge. */
function answer({ found, strength, period, conclusion }) {
  const text = found ? `Checkerboard of ${percent(strength)}, period ${period}` : found === null ? "Could not judge" : "No checkerboard";
  const why = found === null ? conclusion.replace("Could not judge", "") : !found && period ? `. ${conclusion}` : "";
  return html("p", { class: "verdict" }, html("strong", { text: `${found ? "⚠" : found === null ? "–" : "✓"} ${text}` }),
    why ? html("span", { class: "small quiet", text: why }) : null);
}

/** A picture with a frame around the detail, which can be moved by pointing, above the detail itself. */
function enlarged(title, one, note = "") {
  const whole = picture(one.picture, `${title}, the whole picture`);
  const frame = html("i", { class: "frame" });
  const field = html("div", { class: "whole" }, whole, frame);
  const move = (event) => {
    if (event.buttons !== 1 && event.type !== "pointerdown") return;
    const box = whole.getBoundingClientRect();
    find("#across").value = (100 * (event.clientX - box.left)) / box.width;
    find("#down").value = (100 * (event.clientY - box.top)) / box.height;
    showDetails();
  };
  field.addEventListener("pointerdown", move);
  field.addEventListener("pointermove", move);
  return html("figure", {}, html("figcaption", {}, html("h3", { text: title }), answer(one.judged)), field,
    detail(one.picture, `${title}, the detail`), note ? html("p", { class: "small quiet", text: note }) : null);
}

/** A canvas for a detail of a picture, which `showDetails` draws. */
function detail(of, name) {
  const canvas = html("canvas", { class: "detail", role: "img", "aria-label": name });
  canvas.source = document.createElement("canvas");
  paint(canvas.source, of);
  return canvas;
}

function show() {
  const last = told.stages.at(-1);
  const size = (one) => `${one.picture.height} × ${one.picture.width}`;
  const many = told.stages.length;
  find("#what").textContent = `${told.input.height} × ${told.input.width} pixels through ${many} ${FORMS[state.form]}${many > 1 ? "s" : ""}: ${[told.input.height, ...told.stages.map((one) => one.picture.height)].join(" → ")}.`;
  const darker = ({ brightness }) => (brightness < 0.995 ? `Shown at ${percent(brightness)} of its brightness: it is brighter than white.` : "");
  find("#compared").replaceChildren(
    enlarged(`${many} ${FORMS[state.form]}${many > 1 ? "s" : ""}`, last, darker(last)),
    enlarged("Bilinear", told.bilinear), enlarged("Nearest neighbour", told.nearest));
  find("#stages").replaceChildren(...told.stages.map((stage, place) => {
    const title = `After layer ${place + 1}`;
    return html("figure", {}, html("figcaption", {}, html("h3", { text: `${title}: ${size(stage)}` }), answer(stage.judged)),
      detail(stage.picture, `${title}, the detail`), picture(stage.constant, `${title}, for a constant picture`),
      html("p", { class: "small quiet", text: stage.highest - stage.lowest < 0.005 ? "A constant picture stays constant."
        : `A constant picture becomes ${stage.lowest.toFixed(2)} to ${stage.highest.toFixed(2)} times its mean.` }));
  }));
  showDetails();
}

/** Draw the detail of every picture: in all the same place, in earlier stages with fewer pixels. */
function showDetails() {
  const [x, y] = [Number(find("#across").value), Number(find("#down").value)];
  find("#across-of").textContent = `${Math.round(x)} %`;
  find("#down-of").textContent = `${Math.round(y)} %`;
  if (!told) return;
  const share = Math.min(1, Number(find("#detail").value) / told.stages.at(-1).picture.width);
  for (const canvas of document.querySelectorAll(".detail")) {
    const { width } = canvas.source;
    const side = Math.max(1, Math.round(share * width));
    const [left, top] = [x, y].map((at) => Math.round((at / 100) * (width - side)));
    canvas.width = canvas.height = side;
    canvas.getContext("2d").drawImage(canvas.source, left, top, side, side, 0, 0, side, side);
  }
  for (const frame of document.querySelectorAll(".frame")) {
    Object.assign(frame.style, { width: `${100 * share}%`, height: `${100 * share}%`, left: `${x * (1 - share)}%`, top: `${y * (1 - share)}%` });
  }
}

// Controls ---------------------------------------------------------------------------------------------------------

const choose = Object.keys(CHOICES).map((name) => [name, choice(find(`#${name}`), (value) => change({ [name]: value }))]);
const sliders = SLIDERS.map(({ name, text, least, most }) => {
  const input = html("input", { type: "range", id: name, min: least, max: most, "aria-label": text });
  const output = html("output", { for: name });
  const title = html("b", { text });
  find("#sliders").append(html("label", { class: "slider" }, html("span", {}, title, output), input));
  input.addEventListener("input", () => change({ [name]: Number(input.value) }));
  return { name, input, output, title };
});

function showControls() {
  for (const [name, set] of choose) set(state[name]);
  for (const { name, input, output, title } of sliders) {
    input.value = state[name];
    output.textContent = state[name];
    if (name === "stride") title.textContent = input.ariaLabel = state.form === "transposed" ? "stride" : "scale factor";
  }
  find("#redraw").disabled = state.kernel !== "random";
  find("#picture").value = source === null ? (own ? "own" : "") : `run ${source}`;
  find("#which").hidden = source === null;
  find("#image").textContent = `image ${image}`;
  find("#before").disabled = image === 0;
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (String(value) !== String(START[name])) query.set(name, value);
  const run = source ?? given.get("run");
  if (run) query.set("run", run);
  if (source !== null) query.set("image", image);
  history.replaceState(null, "", String(query) ? `?${query}` : location.pathname);
}

find("#redraw").addEventListener("click", () => change({ seed: (state.seed + 1) % 10_000 }));
find("#reset").addEventListener("click", () => change(START));
find("#picture").addEventListener("change", (event) => {
  source = event.target.value.startsWith("run ") ? event.target.value.slice(4) : null;
  if (event.target.value === "") own = null;
  image = 0;
  refresh();
});
for (const [id, step] of [["#before", -1], ["#after", 1]]) {
  find(id).addEventListener("click", () => {
    image = Math.max(0, image + step);
    refresh();
  });
}
for (const id of ["#across", "#down", "#detail"]) find(id).addEventListener("input", showDetails);
onPicture((file) => {
  own = file;
  source = null;
  if (!find("#picture [value=own]")) find("#picture").append(html("option", { value: "own" }));
  find("#picture [value=own]").textContent = file.name ?? "Your picture";
  refresh();
}, (error) => {
  find("#error").textContent = error.message;
  find("#error").hidden = false;
});

const runs = await listRuns(given.get("run")).catch(() => []); // without runs there are other pictures
for (const { name, error } of runs) {
  if (!error) find("#picture").append(html("option", { value: `run ${name}`, text: `Test image of ${name}` }));
}
if (source !== null && !runs.some((run) => run.name === source)) source = null;
refresh();
