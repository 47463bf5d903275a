// The doctor page: whether a run's model or a picture has a checkerboard, and its cause.

import { ask, count, find, html, onShade, shade, table, working } from "./dom.js";
import { chosen, followRuns, listRuns, onPicture } from "./runs.js";

const MARKS = { even: "✓", "weights uneven": "△", checkerboard: "⚠", "not judged": "–" };

let run = null;
let picture = null;

const sizes = (all) => (new Set(all).size === 1 ? String(all[0]) : all.join("×"));
const percent = (share) => (share === null ? "–" : `${(100 * share).toPrecision(2)} %`);

function measured({ measured: found, refusal }) {
  if (!found) return refusal || "–";
  return found.found ? `${percent(found.strength)} ${found.kinds.join(" and ")}` : "none";
}

function layers(found) {
  return table("Upsampling layers", ["layer", "kind", "kernel", "stride", "taps", "gain spread", "makes", "measured", "verdict"],
    found.map((layer) => [
      layer.name,
      layer.kind,
      layer.kernel_size.length ? sizes(layer.kernel_size) : "–",
      sizes(layer.stride),
      layer.taps === null ? "–" : [...new Set(layer.taps)].join(" to "),
      layer.gain_spread === null ? "–" : layer.gain_spread.toPrecision(2),
      percent(layer.made),
      measured(layer),
      `${MARKS[layer.verdict]} ${layer.verdict}`,
    ]), "findings-table");
}

function periods(found) {
  const made = found.some((one) => one.layers?.length);
  return table("Periods looked for", ["period", ...(made ? ["layers"] : []), "measured", "evidence"],
    found.map((one) => [
      sizes(one.period), ...(made ? [one.layers.join(", ")] : []), measured(one),
      one.measured ? one.measured.evidence.toFixed(1) : "–",
    ]), "findings-table");
}

/** The advice for the layers, each once, with their names. */
function advice(found) {
  const names = new Map();
  for (const layer of found) if (layer.advice) names.set(layer.advice, [...(names.get(layer.advice) ?? []), layer.name]);
  return [...names].map(([text, of]) => html("li", {}, html("strong", { text: of.join(", ") }), `: ${text}`));
}

function notes(told) {
  return [
    ...advice(told.layers),
    told.unreached.length ? html("li", { text: `Not reached by any image: ${told.unreached.join(", ")}.` }) : null,
    told.uneven_gradients.length
      ? html("li", { text: `Uneven gradients, because the stride does not divide the kernel: ${told.uneven_gradients.join(", ")}.` })
      : null,
  ].filter(Boolean);
}

function figure(told) {
  const address = URL.createObjectURL(new Blob([told.figure], { type: "image/svg+xml" }));
  const words = told.layers.length
    ? "The gains of each layer's phases, an output, its spectrum, and the pattern in it"
    : "The picture, its spectrum, and the pattern in it";
  const image = html("img", { src: address, alt: `${words}. ${told.conclusion}` });
  image.addEventListener("load", () => URL.revokeObjectURL(address));
  return html("figure", {},
    html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Figure" }, image),
    html("figcaption", { class: "quiet small", text: "Drawn with contrast stretched: pictures from their 0.5 % to their 99.5 % quantile, the pattern alone to the whole range. How strong it is, the table says." }));
}

function show(place, told) {
  place.replaceChildren(
    html("p", { class: "verdict" }, html("strong", { text: `${told.found === null ? "–" : told.found ? "⚠" : "✓"} ${told.conclusion}` })),
    ...(told.layers.length ? [layers(told.layers)] : []),
    ...(notes(told).length ? [html("ul", { class: "notes" }, ...notes(told))] : []),
    ...(told.output.length ? [html("h3", { text: told.layers.length ? "In the output" : "In the picture" }), periods(told.output)] : []),
    ...(told.figure ? [figure(told)] : []),
  );
  count(place);
}

/** Ask for a diagnosis and show it; until then the earlier one stays. */
async function examine(place, address, options) {
  place.setAttribute("aria-busy", "true");
  try {
    show(place, await working(place, "Examining", ask(`${address}?theme=${shade()}`, options)));
  } catch (error) {
    say(place, error);
  }
  place.removeAttribute("aria-busy");
}

const examineRun = () => run && examine(find("#model-findings"), `/api/runs/${encodeURIComponent(run)}/checkup`);
const examinePicture = () => picture && examine(find("#picture-findings"), "/api/pictures/checkup", { body: picture });

async function begin() {
  const runs = await listRuns();
  if (!runs.length) {
    find(".runs").hidden = find("#model").hidden = true;
    return followRuns(() => location.reload());
  }
  run = chosen(runs);
  find("#model-title").textContent = run;
  document.title = `${run} · Doctor · halfstride studio`;
  followRuns();
  await Promise.all([listRuns(run), examineRun()]);
}

const say = (place, error) => place.replaceChildren(html("p", { class: "alarm", text: error.message }));

onPicture((file) => {
  picture = file;
  find("#picture-title").textContent = file.name ?? "A picture";
  examinePicture();
}, (error) => say(find("#picture-findings"), error));
onShade(() => (examineRun(), examinePicture()));
begin().catch((error) => say(find("#model-findings"), error));
