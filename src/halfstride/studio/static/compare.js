// The compare page: losses of several runs, their errors against their compression, and one image through all of them.

import { losses, trade } from "./compare_charts.js";
import { ask, choice, count, find, grouped, html, newestOnly, svg, working } from "./dom.js";
import { picture } from "./paint.js";
import { chooseRuns, followRuns, latent, listRuns, onPicture, small } from "./runs.js";

const MOST = 60; // runs that are compared: as many as there are colours and dashes
const FIRST = 4; // runs that are compared where the address names none
const DASHES = ["", "7 3", "3 3", "9 3 2 3", "2 6", "14 4"];

const asked = new URLSearchParams(location.search);
const names = new Set(asked.getAll("run")); // of the chosen runs
const places = new Map(); // of each chosen run its number, which gives its colour and its dashes
const known = new Map(); // what was read of each run, with the time of its last change
let runs = []; // the chosen ones, as `read` returns them
let shown = { of: asked.get("of"), image: /^\d{1,6}$/.test(asked.get("image") ?? "") ? Number(asked.get("image")) : 0 };
let file = null; // an uploaded picture that is shown in place of the test image
let uploads = 0; // how many were chosen

const at = (name, rest) => `/api/runs/${encodeURIComponent(name)}${rest}`;
const psnr = (mse) => (mse > 0 ? `${(-10 * Math.log10(mse)).toFixed(2)} dB` : "–");

function fail(error) {
  find("#error").textContent = error.message;
  find("#error").hidden = false;
}

// The chosen runs --------------------------------------------------------------------------------------------------

/** What the charts need of a run: its errors by step, its evaluation, or in `error` why these cannot be read. */
async function read(name, summary) {
  const last = known.get(name);
  if (last && summary && last.changed === summary.changed && last.listed === summary.error) return last;
  const run = { name, changed: summary?.changed, listed: summary?.error, data: summary?.data ?? null, latent: summary?.latent ?? null, opens: Boolean(summary?.latent), compression: summary?.compression ?? null, metrics: [], evaluation: null, error: null, note: null };
  try {
    Object.assign(run, await ask(at(name, "/progress")), { evaluation: null, error: summary?.error ?? null });
  } catch (error) {
    run.error = summary?.error ?? error.message;
  }
  if (summary) {
    run.evaluation = await ask(at(name, "/evaluation")).catch((error) => {
      if (error.message !== run.error) run.note = error.message;
      return null;
    });
  }
  if (run.evaluation) {
    run.latent ??= run.evaluation.latent_shape;
    run.compression ??= product(run.evaluation.shape) / product(run.evaluation.latent_shape);
  }
  run.best = run.metrics.find((one) => one.step === run.kept) ?? run.metrics.at(-1) ?? null;
  known.set(name, run);
  return run;
}

const product = (shape) => shape.reduce((all, one) => all * one, 1);

/** Give each chosen run the least number that is free, so that the others keep theirs. */
function number() {
  for (const name of places.keys()) if (!names.has(name)) places.delete(name);
  for (const name of names) {
    if (places.has(name) || places.size >= MOST) continue;
    const used = new Set(places.values());
    let place = 0;
    while (used.has(place)) place++;
    places.set(name, place);
  }
}

const load = newestOnly(async () => {
  number();
  const all = await listRuns([...names][0]);
  const found = await Promise.all([...places.keys()].map((name) => read(name, all.find((one) => one.name === name))));
  runs = found.map((run) => ({ ...run, place: places.get(run.name), dashes: DASHES[Math.floor(places.get(run.name) / 10)] }));
  find("#error").hidden = true;
  show();
  await showImage();
  count(find("#lab"));
});

const reload = () => load().catch(fail);

/** The runs by their images: those of one group can be compared. A run that does not tell has a group of its own. */
function groups() {
  const found = new Map();
  for (const run of runs) {
    const data = run.data ?? (run.error ? null : `images that ${run.name} does not tell`);
    found.set(data, [...(found.get(data) ?? []), run]);
  }
  const broken = found.get(null) ?? [];
  found.delete(null);
  return { found: [...found], broken };
}

function show() {
  const { found, broken } = groups();
  const notes = [];
  if (names.size < 2) notes.push(names.size ? "Choose another run in the table to compare it with." : "Choose two runs or more in the table.");
  if (names.size > MOST) notes.push(`${grouped(names.size)} runs are chosen: the first ${MOST} are shown.`);
  if (found.length > 1) notes.push(`These runs were trained on ${found.length} different sets of images. An error on one says nothing about another, so each has charts of its own.`);
  find("#notice").hidden = !notes.length;
  find("#notice").textContent = notes.join(" ");
  showTable(found, broken);
  showCharts();
  showAddress();
}

function showAddress() {
  const query = new URLSearchParams([...names].map((name) => ["run", name]));
  if (shown.of && file === null) query.append("of", shown.of);
  if (shown.image && file === null) query.append("image", shown.image);
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  document.title = `${names.size} runs compared · halfstride studio`;
}

/** The number of a run with its line, as in the charts. */
const key = ({ place, dashes }) => html("span", { class: "run-key" },
  svg("svg", { class: "key", viewBox: "0 0 24 4", "aria-hidden": "true" }, svg("path", { class: `p${place % 10}`, "stroke-dasharray": dashes || null, d: "M0 2H24" })),
  html("b", { text: place + 1 }));

const HEADS = ["run", "latent", "compression", "kept at step", "train MSE", "validation MSE", "test MSE", "test PSNR", "PCA, test MSE", "better than PCA"];

function showTable(found, broken) {
  const of = (run) => html("th", { scope: "row" }, key(run), html("a", { href: `/autoencoder?run=${encodeURIComponent(run.name)}`, text: run.name }));
  const row = (run) => html("tr", { "data-place": run.place }, of(run), ...figures(run).map((text) => html("td", { text })));
  const why = (run, text) => html("tr", { class: "why" }, html("td", { colspan: HEADS.length, text }));
  const told = (run) => [row(run), ...[run.error && `Cannot be opened. ${run.error}`, run.note].filter(Boolean).map((text) => why(run, text))];
  const group = (data, members) => html("tbody", {}, html("tr", { class: "data" }, html("th", { colspan: HEADS.length, scope: "rowgroup", text: data })), ...members.flatMap(told));
  const bodies = found.map(([data, members]) => group(data, members));
  if (broken.length) bodies.push(html("tbody", {}, ...broken.flatMap(told)));
  const focused = document.activeElement.closest("#chosen a")?.href;
  find("#chosen").replaceChildren(html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table of the chosen runs" },
    html("table", { class: "figures" }, html("caption", { class: "visually-hidden", text: "The chosen runs, by their images" }),
      html("thead", {}, html("tr", {}, ...HEADS.map((text) => html("th", { scope: "col", text })))), ...bodies)));
  if (focused) [...document.querySelectorAll("#chosen a")].find((link) => link.href === focused)?.focus();
}

function figures({ latent: shape, compression, best, evaluation, error }) {
  if (error && !best) return HEADS.slice(1).map(() => "–");
  const pca = evaluation?.rows.find((row) => row.name === "PCA");
  const gain = pca && pca.mse > 0 && evaluation.rows[0].mse > 0 ? 10 * Math.log10(pca.mse / evaluation.rows[0].mse) : null;
  return [
    latent(shape),
    compression === null ? "–" : `${Number(compression.toPrecision(3))} : 1`,
    best ? grouped(best.step) : "–",
    ...["train_mse", "validation_mse", "test_mse"].map((name) => small(best?.[name] ?? null)),
    best?.test_psnr == null ? "–" : `${best.test_psnr.toFixed(2)} dB`,
    small(pca?.mse ?? null),
    gain === null ? "–" : `${gain < 0 ? "−" : ""}${Math.abs(gain).toFixed(2)} dB`,
  ];
}

// Charts -----------------------------------------------------------------------------------------------------------

const showPart = choice(find("#part"), showCharts);
showPart("validation");

function showCharts() {
  const { found } = groups();
  const parts = [...document.querySelectorAll("#parts :checked")].map((box) => box.value);
  const part = find("#part :checked").value;
  for (const [place, draw] of [["#losses", (members, width) => losses(members, parts, width)], ["#trade", (members, width) => trade(members, part, width)]]) {
    const width = Math.max(240, find(place).clientWidth);
    const drawn = found.flatMap(([data, members]) => [found.length > 1 ? html("h3", { class: "small data", text: data }) : null, draw(members, width)]);
    find(place).replaceChildren(...drawn.filter(Boolean));
  }
}

find("#parts").addEventListener("change", showCharts);
let width = 0;
new ResizeObserver(() => {
  if (find("#losses").clientWidth === width) return;
  width = find("#losses").clientWidth;
  showCharts();
}).observe(find("#losses"));

/** What belongs to the run under the pointer or the focus stands out everywhere. */
function light(event) {
  const place = event.target.closest?.("[data-place]")?.dataset.place;
  for (const node of document.querySelectorAll(".lit")) node.classList.remove("lit");
  find("#lab").classList.toggle("some-lit", place !== undefined);
  if (place !== undefined) for (const node of document.querySelectorAll(`[data-place="${place}"]`)) node.classList.add("lit");
}
for (const kind of ["pointerover", "focusin"]) find("#lab").addEventListener(kind, light);

// One image --------------------------------------------------------------------------------------------------------

let turn = 0;
let drawn = null; // which image by which models is shown
const totals = new Map(); // of the test images of each run

async function showImage() {
  const able = runs.filter((run) => !run.error && run.model);
  const donors = able.filter((run) => run.opens && run.data && !run.data.startsWith("arrays handed over"));
  if (!donors.some((run) => run.name === shown.of)) shown = { of: donors[0]?.name ?? null, image: shown.image };
  find("#of").replaceChildren(...donors.map((run) => html("option", { value: run.name, text: run.name })));
  find("#of").disabled = !donors.length;
  find("#of").value = shown.of;
  showAddress();
  const wanted = JSON.stringify([able.map((run) => [run.place, run.name, run.model]), file === null ? shown : uploads]);
  if (wanted === drawn) return;
  drawn = wanted;
  const mine = ++turn;
  const from = able.find((run) => run.name === shown.of);
  find("#own").replaceChildren();
  if (!able.length || (!from && file === null)) {
    find("#compared").replaceChildren();
    if (able.length) find("#own").replaceChildren(html("p", { class: "quiet", text: "None of these runs says where its images are: choose a picture of your own." }));
    return;
  }
  const request = file === null
    ? ({ name }) => ask(at(shown.of, `/reconstruction?by=${encodeURIComponent(name)}&index=${shown.image}`))
    : ({ name }) => ask(at(name, "/reconstruct"), { body: file });
  const ordered = from && file === null ? [...able].sort((one, other) => (one.data !== from.data) - (other.data !== from.data)) : able;
  await send(ordered, request, from, () => mine !== turn);
}

/** Ask all runs, two at a time, and show each answer as it comes, until there is something newer to show. */
async function send(able, request, from, stale) {
  const place = find("#compared");
  const cards = able.map((run) => html("figure", { class: "card", "data-place": run.place }, html("figcaption", {}, key(run), html("span", { text: run.name }))));
  const originals = html("div", { class: "originals" });
  place.ariaBusy = "true";
  const answers = [];
  const fill = () => {
    if (place.firstElementChild !== originals) place.replaceChildren(originals, ...cards); // the last image stays until the first answer
  };
  const waiting = [...able.entries()];
  let done = 0;
  const work = async () => {
    while (waiting.length && !stale()) {
      const [at, run] = waiting.shift();
      const answer = await request(run).catch((error) => ({ error: error.message }));
      if (stale()) return;
      fill();
      done++;
      if (answer.error) cards[at].append(html("p", { class: "quiet small", text: answer.error }));
      else {
        answers.push({ ...answer, run, card: cards[at] });
        cards[at].prepend(picture(answer.reconstruction, `Reconstruction by ${run.name}`), picture(answer.difference, `Error of ${run.name}`));
        const other = file === null && run.data !== from.data ? " · trained on other images" : "";
        cards[at].append(html("p", { class: "quiet small", text: `MSE ${small(answer.mse)} · ${psnr(answer.mse)}${other}` }));
        showOriginals(originals, answers);
      }
    }
  };
  if (file === null) await showTotal(stale);
  await working(find("#working"), "Reconstructing", Promise.all([work(), work()]), async () => ({ what: "run", done, total: able.length }));
  if (stale()) return;
  place.ariaBusy = "false";
  count(place);
}

/** The pictures that went in: one, unless the runs have different image sizes; and which run came closest. */
function showOriginals(place, answers) {
  const found = new Map();
  for (const one of answers) found.set(one.original.rgb, [...(found.get(one.original.rgb) ?? []), one]);
  const figure = (image, name, words) => html("figure", { class: "card" }, picture(image, name), html("figcaption", {}, html("span", { text: words })));
  place.replaceChildren(...[...found.values()].flatMap((members) => {
    const [{ original, input, label }] = members;
    const least = members.reduce((one, other) => (other.mse < one.mse ? other : one));
    for (const { card } of members) card.classList.toggle("least", members.length > 1 && card === least.card);
    const size = found.size > 1 ? ` at ${original.width} × ${original.height}` : label === null || label === undefined ? "" : `: ${label}`;
    return [input ? figure(input, "Input", "input") : null, figure(original, "Original", `original${size}`)].filter(Boolean);
  }));
}

async function showTotal(stale) {
  const { of, image } = shown;
  if (!totals.has(of)) totals.set(of, working(find("#working"), "Reading the images", ask(at(of, "/latent")), () => ask(at(of, "/work"))).then((found) => found.points.length));
  const total = await totals.get(of).catch(() => (totals.delete(of), null));
  if (stale()) return;
  find("#range").textContent = total === null ? "" : `${grouped(image + 1)} of ${grouped(total)}`;
  find("#before").disabled = image === 0;
  find("#after").disabled = total === null || image + 1 >= total;
}

function move(next) {
  shown = next;
  file = null;
  showImage().catch(fail);
}
find("#of").addEventListener("change", (event) => move({ of: event.target.value, image: 0 }));
find("#before").addEventListener("click", () => move({ ...shown, image: Math.max(0, shown.image - 1) }));
find("#after").addEventListener("click", () => move({ ...shown, image: shown.image + 1 }));

onPicture((chosen) => {
  file = chosen;
  uploads++;
  find("#range").textContent = chosen.name ?? "your picture";
  showImage().catch(fail);
}, (error) => find("#own").replaceChildren(html("p", { class: "alarm", text: error.message })));

// Beginning --------------------------------------------------------------------------------------------------------

async function begin() {
  const all = await ask("/api/runs");
  if (!all.length && !names.size) {
    find("#empty").hidden = false;
    return followRuns(() => location.reload());
  }
  if (!names.size) for (const run of all.filter((one) => !one.error).slice(0, FIRST)) names.add(run.name);
  chooseRuns(names, reload);
  find("#lab").hidden = false;
  await load();
  followRuns(reload);
}

begin().catch((error) => {
  find("#lab").hidden = false;
  fail(error);
});
