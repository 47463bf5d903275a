// The autoencoder page: one run, its evaluation, its losses, its latent space and its reconstructions.

import { ask, count, find, html, newestOnly, svg, working, written } from "./dom.js";
import { showFacts, showFiles } from "./facts.js";
import { showJudgement } from "./judgement.js";
import { showLoss } from "./loss.js";
import { paint, picture } from "./paint.js";
import { chosen, followRuns, listRuns, onPicture, steps } from "./runs.js";

const PAGE = 12;
const NAMED = 20; // classes in the legend
const POLL = 2000;
const FITS = {
  crop: "It is scaled to cover the model's image size, cropped at the centre",
  pad: "It is scaled to lie inside the model's image size, padded with its edges",
  stretch: "It is stretched to the model's image size",
};
const SIZE = { width: 640, height: 480, margin: 26 };

let run = null; // its name
let latent = null;
let code = null;
let point = null;
let ends = { A: 0, B: 1 };
let first = 0;
let total = 0;
let seen = null; // the progress that is shown
let model = null; // the version of its model that is shown
let judged = null; // the version of its evaluation that is shown

const of = (rest = "") => `/api/runs/${encodeURIComponent(run)}${rest}`;

function fail(error) {
  if (find("#error").textContent !== error.message) find("#error").textContent = error.message; // screen readers announce it once
  find("#error").hidden = false;
}

// Runs and losses --------------------------------------------------------------------------------------------------

/** Ask every two seconds whether the run has continued; after a failure, which may be temporary, every ten. */
async function follow() {
  let pause = POLL;
  try {
    if (!document.hidden) await look();
  } catch (error) {
    seen = null;
    pause = 5 * POLL;
    find("#lab").classList.toggle("bare", latent === null); // without test images only an uploaded one can be shown
    fail(error);
  }
  setTimeout(follow, pause);
}

async function look() {
  const progress = await ask(of("/progress"));
  const now = JSON.stringify(progress);
  if (now === seen) return;
  const { model: newest, metrics, kept, steps_asked: asked, evaluation } = progress;
  const done = metrics.at(-1)?.step ?? 0;
  find("#live").textContent = newest === null ? "no model yet" : steps(done, asked);
  showLoss(metrics, kept);
  await listRuns(run);
  const judgement = JSON.stringify([evaluation, done < asked]);
  if (judgement !== judged) {
    await showJudgement(of("/evaluation"));
    judged = judgement;
  }
  if (newest !== null && newest !== model) {
    const details = await ask(of());
    showFacts(details);
    find("#fit").textContent = FITS[details.fit] ?? FITS.crop;
    if (details.not_run === null) await showModel(details);
    else showFiles(details, of("/pictures"));
    model = newest;
  }
  seen = now;
  find("#lab").classList.remove("bare");
  find("#error").hidden = true;
}

// The latent space -------------------------------------------------------------------------------------------------

const scale = () => {
  const [left, right, bottom, top] = latent.extent;
  const pad = (low, high) => (high > low ? (high - low) * 0.04 : 1);
  const [x0, x1] = [left - pad(left, right), right + pad(left, right)];
  const [y0, y1] = [bottom - pad(bottom, top), top + pad(bottom, top)];
  const { width, height, margin } = SIZE;
  return {
    x: (value) => margin + ((value - x0) / (x1 - x0)) * (width - margin - 8),
    y: (value) => 8 + ((y1 - value) / (y1 - y0)) * (height - margin - 8),
    back: (px, py) => [
      x0 + ((px - margin) / (width - margin - 8)) * (x1 - x0),
      y1 - ((py - 8) / (height - margin - 8)) * (y1 - y0),
    ],
    step: [(x1 - x0) / 50, (y1 - y0) / 50],
  };
};

/** The plane is created once, so that a training that continues does not interrupt a drag. */
function makePlane() {
  const plane = svg("svg", { class: "plane", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: 0, role: "application",
    "aria-label": "The latent plane. Arrow keys move the point that is decoded." },
    svg("g", { id: "points" }), svg("g", { id: "path" }));
  const at = (event) => {
    const box = plane.getBoundingClientRect();
    return scale().back(((event.clientX - box.left) / box.width) * SIZE.width, ((event.clientY - box.top) / box.height) * SIZE.height);
  };
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    moveTo(at(event));
  });
  plane.addEventListener("pointermove", (event) => {
    if (plane.hasPointerCapture(event.pointerId)) moveTo(at(event));
  });
  plane.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moveTo(moves[event.key].map((move, axis) => point[axis] + move * scale().step[axis]));
  });
  // The handle is not part of the drawing: moving it would paint a thousand points again.
  find("#plane").replaceChildren(plane, html("div", { class: "handle", id: "handle" }));
}

function showPoints() {
  if (!find(".plane")) makePlane();
  const { x, y } = scale();
  const names = latent.classes ?? [];
  const letters = names.length > 0 && names.every((name) => [...name].length <= 2);
  const points = latent.points.map(([a, b], index) => {
    const label = latent.labels?.[index];
    const color = label === undefined ? "p0" : `p${label % 10}`;
    return letters && label !== undefined
      ? svg("text", { class: color, x: x(a), y: y(b), text: names[label] })
      : svg("circle", { class: color, cx: x(a), cy: y(b), r: 3 });
  });
  find("#points").replaceChildren(
    ...points,
    svg("text", { class: "axis", x: SIZE.width / 2, y: SIZE.height - 13, text: latent.axes[0] }),
    svg("text", { class: "axis", x: 11, y: SIZE.height / 2, transform: `rotate(-90 11 ${SIZE.height / 2})`, text: latent.axes[1] }),
  );
  find("#legend").replaceChildren(
    ...(letters ? [] : names.slice(0, NAMED).map((name, index) =>
      html("span", {}, svg("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }, svg("circle", { class: `p${index % 10}`, cx: 4, cy: 4, r: 4 })), ` ${name}`),
    )),
    ...(letters || names.length <= NAMED ? [] : [html("span", { class: "quiet", text: `and ${names.length - NAMED} more` })]),
  );
}

function showHandle() {
  const { x, y } = scale();
  const { style } = find("#handle");
  style.left = `${(100 * x(point[0])) / SIZE.width}%`;
  style.top = `${(100 * y(point[1])) / SIZE.height}%`;
}

// Answers arrive after further choices. An answer shows its picture, but changes neither the sliders nor the point in the
// plane where these were moved after its request.
let asked = 0;
let taken = 0;
const chosenAt = { code: 0, point: 0 };

const decode = newestOnly(async ({ turn, ...wanted }) => {
  try {
    take(await ask(of("/decode"), { body: wanted }), turn);
  } catch (error) {
    if (turn === asked) find("#decoded").ariaBusy = "false";
    fail(error);
  }
}, 2);

/** A new turn; `what` was chosen in it. */
function choose(...what) {
  asked++;
  for (const one of what) chosenAt[one] = asked;
  find("#decoded").ariaBusy = "true";
  return asked;
}

function moveTo(where) {
  point = where;
  showHandle();
  decode({ point, turn: choose("point") });
}

/** Show a decoded code in the picture, the plane and the sliders. */
function take(decoded, turn) {
  if (turn < taken) return;
  taken = turn;
  const canvas = find("#decoded");
  paint(canvas, decoded.image);
  count(canvas);
  canvas.ariaBusy = String(turn < asked);
  find("#where").textContent = `decoded at ${decoded.point.map((value) => written(Number(value.toFixed(2)))).join(", ")}`;
  if (turn >= chosenAt.point) {
    point = decoded.point;
    showHandle();
  }
  if (turn >= chosenAt.code) {
    code = decoded.code;
    showCode();
  }
}

function showCode() {
  for (const input of document.querySelectorAll("#sliders input")) {
    const value = code[input.dataset.index];
    input.value = value;
    input.parentElement.querySelector("output").textContent = written(Number(value.toFixed(2)));
  }
}

/** A slider for each number that varies; existing sliders are kept, since one may be in use. */
function showSliders() {
  const place = find("#sliders");
  const wanted = latent.sliders.map(({ index }) => index);
  if (!wanted.length) {
    const numbers = latent.numbers.toLocaleString("en");
    place.replaceChildren(html("p", { class: "quiet small", text: `A code of ${numbers} numbers is too long for sliders: use the plane.` }));
    return;
  }
  if ([...place.querySelectorAll("input")].map((input) => input.dataset.index).join() !== wanted.join()) {
    place.replaceChildren(...wanted.map(makeSlider));
  }
  latent.sliders.forEach(({ low, high }, at) => {
    const input = place.children[at].querySelector("input");
    Object.assign(input, { min: low, max: high, step: (high - low) / 200 || 1 });
  });
}

function makeSlider(index) {
  const input = html("input", { type: "range", "data-index": index, "aria-label": `latent ${index + 1}` });
  input.addEventListener("input", () => {
    code = code.with(index, Number(input.value));
    showCode();
    decode({ code, turn: choose("code") });
  });
  return html("label", { class: "slider of-input" }, html("span", {}, `latent ${index + 1}`, html("output", {})), input);
}

// Walk and reconstructions -----------------------------------------------------------------------------------------

let between = [];
const walk = newestOnly(async () => {
  between = await ask(of("/walk"), { body: { start: ends.A, end: ends.B, steps: 11 } });
  const place = find("#walk");
  if (!place.childElementCount) place.replaceChildren(...between.map((_, at) => makeStep(at)));
  between.forEach((step, at) => {
    paint(place.children[at].firstElementChild, step.image);
    place.children[at].removeAttribute("aria-current");
  });
  const { x, y } = scale();
  const path = between.map(({ point: [a, b] }) => `${x(a)} ${y(b)}`).join("L");
  const ended = Object.entries({ A: between[0], B: between.at(-1) }).flatMap(([name, { point: [a, b] }]) => [
    svg("circle", { class: "end", cx: x(a), cy: y(b), r: 8 }),
    svg("text", { class: "end-name", x: x(a), y: y(b) + 0.5, text: name }),
  ]);
  find("#path").replaceChildren(svg("path", { class: "path", d: `M${path}` }), ...ended);
});

function makeStep(at) {
  const button = html("button", { type: "button", "aria-label": `Step ${at + 1} of ${between.length}` }, html("canvas", { role: "presentation" }));
  button.addEventListener("click", () => {
    take(between[at], choose("code", "point"));
    for (const other of find("#walk").children) other.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
  });
  return button;
}

function triple(one, controls = null) {
  const restored = one.input !== null; // the input is not the target
  return html("figure", { class: restored ? "triple quadruple" : "triple" },
    restored ? picture(one.input, "input") : null,
    ...(restored ? [picture(one.reconstruction, "output"), picture(one.original, "target")] : [picture(one.original, "original"), picture(one.reconstruction, "reconstruction")]),
    picture(one.difference, "error"),
    html("figcaption", {}, html("span", { text: `${one.label === null ? "" : `${one.label} · `}MSE ${one.mse.toFixed(4)}` }), controls),
  );
}

const showPictures = newestOnly(async () => {
  const start = first;
  const found = await ask(of(`/images?start=${start}&count=${PAGE}`));
  const { end, index } = document.activeElement.dataset;
  find("#pictures").replaceChildren(
    ...found.map((one) => {
      const buttons = ["A", "B"].map((end) => {
        const button = html("button", { type: "button", text: end, "data-end": end, "data-index": one.index, "aria-label": `Walk ${end === "A" ? "from" : "to"} image ${one.index}` });
        button.addEventListener("click", () => {
          ends[end] = one.index;
          showEnds();
          walk().catch(fail);
          decode({ index: one.index, turn: choose("code", "point") });
        });
        return button;
      });
      return triple(one, html("span", { class: "ends" }, ...buttons));
    }),
  );
  find("#range").textContent = `${start + 1}–${start + found.length} of ${total.toLocaleString("en")}`;
  find("#before").disabled = start === 0;
  find("#after").disabled = start + PAGE >= total;
  showEnds();
  if (end) find(`.ends [data-end="${end}"][data-index="${index}"]`)?.focus(); // as before
});

function showEnds() {
  for (const button of document.querySelectorAll(".ends button")) {
    button.setAttribute("aria-pressed", String(ends[button.dataset.end] === Number(button.dataset.index)));
  }
}

for (const [id, by] of [["#before", -PAGE], ["#after", PAGE]]) {
  find(id).addEventListener("click", () => {
    first = Math.max(0, first + by);
    showPictures().catch(fail);
  });
}

// Uploaded pictures ------------------------------------------------------------------------------------------------

const refuse = (error) => find("#own").replaceChildren(html("p", { class: "alarm", text: error.message }));

const send = newestOnly(async (file) => {
  try {
    const answer = await working(find("#own"), "Reconstructing", ask(of("/reconstruct"), { body: file }));
    find("#own").replaceChildren(triple({ ...answer, label: file.name ?? "yours" }));
  } catch (error) {
    refuse(error);
  }
});

onPicture(send, refuse);

// Beginning --------------------------------------------------------------------------------------------------------

/** All that depends on the weights. */
async function showModel({ paired, corruption }) {
  latent = await working(find("#working"), "Reading the images", ask(of("/latent")), () => ask(of("/work")));
  total = latent.points.length;
  find("#shown").textContent = told(total, latent.test_images);
  find("#triples").textContent = paired || corruption
    ? `Input (${paired ? "of the pairs" : corruption}), output, target, and the error (black: none).`
    : "Test images, their reconstructions, and the error (black: none).";
  ends.B = Math.min(ends.B, total - 1);
  showPoints();
  showSliders();
  if (code?.length !== latent.code.length) code = latent.code;
  point ??= [0, 0];
  showHandle();
  showCode();
  await Promise.all([decode({ ...(code.length ? { code } : { point }), turn: choose() }), showPictures(), walk()]);
}

/** The number of test images that are shown. */
function told(shown, all) {
  if (all === null) return `Every point is a test image: the first ${shown.toLocaleString("en")} of a stream.`;
  if (all <= shown) return `Every point is one of the ${all.toLocaleString("en")} test images.`;
  return `Every point is a test image: ${shown.toLocaleString("en")} of ${all.toLocaleString("en")}, evenly from all of them.`;
}

async function begin() {
  const runs = await listRuns();
  if (!runs.length) {
    find("#empty").hidden = false;
    return followRuns(() => location.reload());
  }
  followRuns();
  run = chosen(runs);
  find("#lab").hidden = false;
  document.title = `${run} · halfstride studio`;
  await follow();
}

begin().catch((error) => {
  find("#lab").hidden = false;
  fail(error);
});
