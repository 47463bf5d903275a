// The autoencoder page: one run, its evaluation, its losses, its latent space and its reconstructions.

import { ask, count, find, html, newestOnly, working, written } from "./dom.js";
import { showFacts, showFiles } from "./facts.js";
import { showJudgement } from "./judgement.js";
import { showLoss } from "./loss.js";
import { drawable, makePad } from "./pad.js";
import { paint, picture } from "./paint.js";
import { makePlane } from "./plane.js";
import { beginWithRun, listRuns, onPicture, steps } from "./runs.js";
import { makePicked, makeSelection } from "./selection.js";

const PAGE = 12;
const POLL = 2000;
const FITS = {
  crop: "It is scaled to cover the model's image size, cropped at the centre",
  pad: "It is scaled to lie inside the model's image size, padded with its edges",
  stretch: "It is stretched to the model's image size",
};

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
    showPad(details);
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

const plane = makePlane(find("#plane"), {
  decode: (where) => {
    point = where;
    decode({ point, turn: choose("point") });
  },
  pick: choosePicked,
  select: (indices, toggle = false) => {
    if (toggle) for (const index of indices) selected[selected.has(index) ? "delete" : "add"](index);
    else selected = new Set(indices);
    showSelected();
  },
  pictures: (indices) => ask(of(`/thumbnails?${indices.map((index) => `index=${index}`).join("&")}`)),
});

let selected = new Set(); // indices of test images
let rows = null; // of all test images, once they were asked for

const showPicked = makePicked(of, triple, choosePicked, fail);
const showTable = makeSelection(() => run, () => (rows ??= ask(of("/rows")).catch((error) => ((rows = null), Promise.reject(error)))), choosePicked, () => {
  selected = new Set();
  showSelected();
}, fail);

function choosePicked(index) {
  plane.mark({ picked: index });
  showPicked(index);
}

function showSelected() {
  plane.mark({ selected });
  showTable(selected);
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
    plane.point(point);
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
  plane.mark({ walk: between.map((step) => step.point) });
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

let own = null; // the picture that is shown: a file, or what was drawn
let pad = null;

const send = newestOnly(async (file) => {
  own = file;
  try {
    const asked = ask(of(`/reconstruct?invert=${find("#invert").checked}`), { body: file });
    const answer = await working(find("#own"), "Reconstructing", asked);
    find("#own").replaceChildren(triple({ ...answer, label: file.name ?? "yours" }));
    plane.mark({ own: answer.point });
    find("#own-point").textContent = answer.point ? `A cross marks its place in the latent plane: ${answer.point.map((value) => written(Number(value.toFixed(2)))).join(", ")}.` : "";
    count(find("#own"));
  } catch (error) {
    refuse(error);
  }
});

onPicture(send, refuse);

find("#invert").addEventListener("change", (event) => {
  pad?.invert(event.target.checked);
  if (own) send(own);
});

/** A pad where the run's images can be drawn; an existing one is kept with what was drawn. */
function showPad({ image_shape: shape }) {
  find("#pad").hidden = !drawable(shape);
  if (pad || !drawable(shape)) return;
  pad = makePad(shape[1], shape[2], send);
  find("#pad").append(pad.node);
}

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
  plane.show(latent);
  rows = null;
  if (selected.size) showSelected();
  showSliders();
  if (code?.length !== latent.code.length) code = latent.code;
  point ??= [0, 0];
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
  run = await beginWithRun();
  if (run === null) return;
  document.title = `${run} · halfstride studio`;
  await follow();
}

begin().catch((error) => {
  find("#lab").hidden = false;
  fail(error);
});
