// The detection page: judged pictures, the worst first, a threshold, and labels.

import { coloursOf, paintFound, showScale, unpacked } from "./anomaly.js";
import { ask, count, facts, find, grouped, html, newestOnly, table, working } from "./dom.js";
import { extent, histogram, legend } from "./histogram.js";
import { agreement, asTable, labels } from "./labels.js";
import { beginWithRun, listRuns } from "./runs.js";

const PAGE = 48;

let run = null; // its name
let result = null; // the id of what is shown of it
let judged = null; // the server's answer
let pictures = []; // in the order of the gallery: { place, path, score, judged, known, reason, label }
let sorted = []; // all scores that were judged, ascending
let own = null; // the labels in the browser
let threshold = 0;
let colours = null;
let shown = []; // the pictures that the filter leaves
let first = 0; // of the page
let picked = null;
let found = null; // what was found in the picked picture
let moveLine = () => {};
let moveMark = () => {};

const of = (rest = "") => `/api/runs/${encodeURIComponent(run)}${rest}`;
const at = (place, rest = "") => of(`/results/${result}/${place}${rest}`);

function fail(error) {
  find("#error").textContent = error.message;
  find("#error").hidden = false;
}

// The threshold ----------------------------------------------------------------------------------------------------

/** How many of ascending scores lie above a threshold. */
function above(scores, limit) {
  let [low, high] = [0, scores.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] > limit) high = middle;
    else low = middle + 1;
  }
  return scores.length - low;
}

const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

/** The share of good pictures to expect above a threshold, as the detector reckons it. */
function falseAlarms() {
  const over = above(judged.good_scores, threshold);
  return { over, share: (over + 1) / (judged.good_scores.length + 1) };
}

function setThreshold(value) {
  threshold = value;
  const { over, share } = falseAlarms();
  const more = above(sorted, threshold);
  const less = sorted.length - more;
  const unjudged = pictures.length - sorted.length;
  find("#value").textContent = threshold.toFixed(2);
  find("#threshold").setAttribute("aria-valuetext", `${threshold.toFixed(2)}: ${percent(share)} false alarms to expect, ${grouped(more)} pictures above, ${grouped(less)} below`);
  find("#counts").replaceChildren(facts([
    ["above", `${grouped(more)} of ${grouped(sorted.length)} pictures`],
    ["below", `${grouped(less)}`],
    ["false alarms", `${percent(share)} of good pictures to expect (${grouped(over)} of ${grouped(judged.good_scores.length)} validation images lie above)`],
    ...(unjudged ? [["not judged", grouped(unjudged)]] : []),
  ]));
  find("#reset").disabled = threshold === judged.threshold;
  moveLine(threshold);
  moveMark(threshold);
  showAgreement();
  for (const one of shown.slice(first, first + PAGE)) mark(one);
  showFound();
  showKnown();
}

find("#threshold").addEventListener("input", (event) => setThreshold(Number(Number(event.target.value).toFixed(4))));
find("#threshold").addEventListener("change", () => ["above", "below", "apart"].includes(find("#filter").value) && filter());
find("#reset").addEventListener("click", () => {
  find("#threshold").value = judged.threshold;
  setThreshold(judged.threshold);
  filter();
});

// Labels -----------------------------------------------------------------------------------------------------------

function showAgreement() {
  const { bad, good, precision, recall } = agreement(pictures, threshold);
  const labelled = bad.above + bad.below + good.above + good.below;
  if (!labelled) {
    return find("#agreement").replaceChildren(html("p", { class: "quiet small", text: "Label pictures as good or bad, and precision and recall appear here." }));
  }
  const share = (value) => (value === null ? "–" : percent(value));
  find("#agreement").replaceChildren(
    table(`Of ${grouped(labelled)} labelled pictures`, ["", "above", "below"], [["bad", bad.above, bad.below], ["good", good.above, good.below]]),
    facts([["precision", share(precision)], ["recall", share(recall)]]));
}

function showHistogram() {
  const scores = (wanted) => pictures.filter((one) => one.judged && one.label === wanted).map((one) => one.score);
  const kinds = [
    { name: "labelled bad", scores: scores("bad"), look: "bad" },
    { name: "labelled good", scores: scores("good"), look: "good" },
    { name: "without a label", scores: scores(null), look: "open" },
  ].filter((kind) => kind.scores.length);
  moveLine = histogram(find("#histogram"), kinds, judged.good_scores, extent(sorted, judged.good_scores, judged.threshold));
  moveLine(threshold);
  find("#kinds").replaceChildren(...legend([...kinds, { name: "good validation images", look: "validation" }]));
}

function label(one, given) {
  try {
    own.set(one.path, given);
    find("#unkept").hidden = true;
  } catch (error) {
    find("#unkept").textContent = error.message;
    find("#unkept").hidden = false;
  }
  for (const other of pictures) if (other.path === one.path) other.label = given ?? told(other);
  mark(one);
  showAgreement();
  showHistogram();
  showKnown();
}

/** The label that a picture's folder gives. */
const told = ({ known }) => (known === null ? null : known ? "bad" : "good");

for (const button of document.querySelectorAll(".verdicts button")) {
  button.addEventListener("click", () => picked && give(button.dataset.label || null));
}

/** Label the picked picture, and go on to the next. */
function give(given) {
  label(picked, given);
  if (given) step(1);
}

find("#export").addEventListener("click", () => {
  const file = URL.createObjectURL(new Blob([asTable(pictures, threshold)], { type: "text/csv" }));
  html("a", { href: file, download: `${run}-labels.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(file), 60_000);
});

// The gallery ------------------------------------------------------------------------------------------------------

const FILTERS = {
  all: () => true,
  above: (one) => one.judged && one.score > threshold,
  below: (one) => one.judged && one.score <= threshold,
  open: (one) => one.label === null,
  apart: (one) => one.judged && one.label !== null && (one.label === "bad") !== one.score > threshold,
};

function filter() {
  shown = pictures.filter(FILTERS[find("#filter").value]);
  if (!shown.includes(picked)) pick(shown[0] ?? null);
  first = picked ? shown.indexOf(picked) - (shown.indexOf(picked) % PAGE) : 0;
  showPage();
}

find("#filter").addEventListener("change", filter);
find("#maps").addEventListener("change", () => {
  for (const one of pictures) delete one.node;
  showPage();
});

function showPage() {
  const page = shown.slice(first, first + PAGE);
  find("#judged").replaceChildren(...(page.length ? page.map((one) => (one.node ??= card(one))) : [html("p", { class: "quiet", text: "No picture is like that." })]));
  page.forEach(mark);
  find("#range").textContent = page.length ? `${grouped(first + 1)}–${grouped(first + page.length)} of ${grouped(shown.length)}` : "none";
  find("#before").disabled = first === 0;
  find("#after").disabled = first + PAGE >= shown.length;
  count(find("#judged"));
}

/** A picture of the gallery; it is made when its page is first shown. */
function card(one) {
  const address = at(one.place, `/thumbnail?v=${encodeURIComponent(judged.version)}${find("#maps").checked ? "" : "&plain=true"}`);
  const image = html("img", { src: address, alt: "", width: 160, height: 160, decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(html("span", { class: "lost small", text: "cannot be read" })));
  const button = html("button", { type: "button", "data-place": one.place }, image, html("span", { class: "score small" }));
  button.addEventListener("click", () => pick(one));
  return button;
}

const name = (path) => path.split(/[\\/]/).slice(-2).join("/");
const side = (one) => (one.score === null ? "no score" : one.judged ? (one.score > threshold ? "above" : "below") : "not judged");

/** Bring a picture in the gallery up to date. */
function mark(one) {
  if (!one.node) return;
  const score = one.score === null ? "–" : one.score.toFixed(2);
  one.node.className = [side(one).replace(" ", "-"), one.label ?? "open"].join(" ");
  find(".score", one.node).replaceChildren(score, html("b", { "aria-hidden": "true", text: one.label === "bad" ? " ✗" : one.label === "good" ? " ✓" : "" }));
  one.node.title = one.path;
  one.node.setAttribute("aria-label", `${name(one.path)}, score ${score}, ${side(one)}${one.label ? `, labelled ${one.label}` : ""}`);
  if (one === picked) one.node.setAttribute("aria-current", "true");
  else one.node.removeAttribute("aria-current");
  one.node.tabIndex = one === picked ? 0 : -1;
}

for (const [id, by] of [["#before", -PAGE], ["#after", PAGE]]) {
  find(id).addEventListener("click", () => {
    first = Math.max(0, first + by);
    pick(shown[first]);
    showPage();
  });
}

/** Go some pictures on, to another page if need be. */
function step(by) {
  const next = shown[shown.indexOf(picked) + by];
  if (!next) return;
  pick(next);
  const page = shown.indexOf(next) - (shown.indexOf(next) % PAGE);
  if (page !== first) {
    first = page;
    showPage();
  }
  next.node.focus();
}

const columns = () => getComputedStyle(find("#judged")).gridTemplateColumns.split(" ").length;
const KEYS = { g: () => give("good"), b: () => give("bad"), u: () => give(null) };
const MOVES = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns() };

find("#judging").addEventListener("keydown", (event) => {
  if (!picked || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const letter = KEYS[event.key.toLowerCase()];
  const move = event.target.matches("input") ? null : MOVES[event.key];
  if (!letter && !move) return;
  event.preventDefault();
  if (letter) letter();
  else step(move());
});

// The picked picture -----------------------------------------------------------------------------------------------

function pick(one) {
  const before = picked;
  picked = one;
  if (before) mark(before);
  if (picked) mark(picked);
  found = null;
  showKnown();
  load(picked);
}

const load = newestOnly(async (one) => {
  const canvas = find("#picture");
  find("#lost").hidden = true;
  canvas.hidden = !one;
  canvas.ariaBusy = String(Boolean(one));
  if (!one) return;
  try {
    const answer = unpacked(await ask(at(one.place)));
    if (one !== picked) return;
    found = answer;
    canvas.setAttribute("aria-label", `${name(one.path)}${found.values ? " with its anomaly map" : ""}`);
    showFound();
    count(canvas);
  } catch (error) {
    if (one !== picked) return;
    canvas.hidden = true;
    find("#lost").textContent = error.message;
    find("#lost").hidden = false;
  } finally {
    if (one === picked) canvas.ariaBusy = "false";
  }
});

function showFound() {
  const opacity = Number(find("#opacity").value);
  find("#opaque").textContent = percent(opacity);
  if (found) paintFound(find("#picture"), found, { threshold, scale: judged.scale, colours, opacity });
}

find("#opacity").addEventListener("input", showFound);

function showKnown() {
  find("#picked-title").textContent = picked ? name(picked.path) : "Picture";
  for (const button of document.querySelectorAll(".verdicts button")) {
    button.disabled = !picked;
    button.setAttribute("aria-pressed", String(picked !== null && (picked.label ?? "") === button.dataset.label));
  }
  if (!picked) return find("#known").replaceChildren();
  find("#known").replaceChildren(facts([
    ["path", picked.path],
    ["score", picked.score === null ? "–" : picked.score.toFixed(2)],
    ["judged", picked.judged ? (picked.score > threshold ? "anomalous: above the threshold" : "normal: below the threshold") : `not judged: ${picked.reason}`],
    ["label", picked.label === null ? "none" : `${picked.label}${own.of(picked.path) ? "" : ", by its folder"}`],
  ]));
}

// Beginning --------------------------------------------------------------------------------------------------------

const day = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

function showResults(results) {
  find("#results").replaceChildren(...results.map((one) =>
    html("li", {}, html("a", { href: `?${new URLSearchParams({ run, result: one.id })}`, "aria-current": one.id === result ? "page" : null },
      html("span", { text: one.name }),
      html("span", { class: "quiet small", text: one.time ? `${grouped(one.pictures)} pictures, ${day(one.time)}` : "judged here" })))));
}

async function showResult() {
  judged = await working(find("#working"), result === "test" ? "Judging the test images" : "Reading the results", ask(of(`/results/${result}`)), () => ask(of("/work")));
  find("#lab").classList.remove("without-results");
  own = labels(judged.key);
  colours = coloursOf(judged);
  pictures = judged.paths.map((path, place) => {
    const one = { place, path, score: judged.scores[place], judged: judged.labelled[place], known: judged.known[place], reason: judged.reasons[place] };
    return { ...one, label: own.of(path) ?? told(one) };
  }).sort((one, other) => (other.score ?? -Infinity) - (one.score ?? -Infinity) || one.place - other.place);
  sorted = pictures.filter((one) => one.judged).map((one) => one.score).reverse();
  moveMark = showScale(find("#scale"), { scale: judged.scale, colours });
  const [low, high] = extent(sorted, judged.good_scores, judged.threshold);
  Object.assign(find("#threshold"), { min: low, max: high, value: judged.threshold });
  filter();
  setThreshold(judged.threshold);
  new ResizeObserver(showHistogram).observe(find("#histogram"));
  if (document.activeElement === document.body) picked?.node?.focus({ preventScroll: true });
}

async function begin() {
  run = await beginWithRun();
  if (run === null) return;
  find("#lab").classList.add("without-results");
  document.title = `Detection of ${run} · halfstride studio`;
  await listRuns(run);
  const { results, missing, command } = await ask(of("/results"));
  result = new URLSearchParams(location.search).get("result") ?? results[0]?.id ?? null;
  showResults(results);
  find("#missing").hidden = missing === null;
  find("#why").textContent = missing;
  find("#remedy").textContent = command;
  find("#more").hidden = missing !== null;
  find("#command").textContent = command;
  if (result !== null) await showResult();
}

begin().catch((error) => {
  find("#lab").hidden = false;
  fail(error);
});
