// Charts of several runs, each with its own number, colour and dashes.

import { frame, range, ticks } from "./chart.js";
import { grouped, html, svg } from "./dom.js";

const HEIGHT = 340;
const EDGES = [12, 26, 38, 62]; // top, right, bottom, left
const NEAR = 11; // px between two numbers, of which otherwise one is left out

const line = (points) => `M${points.map((at) => at.map((value) => value.toFixed(1)).join(" ")).join("L")}`;
const named = (run) => svg("title", { text: `${run.place + 1}: ${run.name}` });
const missing = (text) => html("p", { class: "quiet small", text });

/** The numbers of runs at places in a drawing, where there is room for them. */
function numbers(places) {
  const taken = [];
  return places.filter(([, x, y]) => {
    const free = taken.every(([, a, b]) => Math.abs(x - a) > NEAR || Math.abs(y - b) > NEAR);
    if (free) taken.push([null, x, y]);
    return free;
  }).map(([run, x, y]) => svg("text", { class: `number p${run.place % 10}`, "data-place": run.place, x, y: y + 4, text: run.place + 1 }));
}

/** The errors of runs over their steps; `parts` are the parts of the data: "validation", "test", "train". */
export function losses(runs, parts, width) {
  const curves = runs.flatMap((run) => parts.map((part) => ({
    run, part, points: run.metrics.map((one) => [one.step, one[`${part}_mse`]]).filter(([, value]) => value > 0),
  }))).filter(({ points }) => points.length);
  if (!curves.length) return missing(parts.length ? "These runs have no such errors yet." : "Choose validation, test or train.");
  const [low, high] = range(curves.flatMap(({ points }) => points.map(([, value]) => value)));
  const last = Math.max(1, ...curves.map(({ points }) => points.at(-1)[0]));
  const { drawing, y, across, floor } = frame({ width, height: HEIGHT, edges: EDGES, low, high, "data-runs": runs.length,
    name: `Mean squared error of ${runs.length} run${runs.length === 1 ? "" : "s"} over ${grouped(last)} steps: ${parts.join(", ")}. The table has the numbers.` });
  const x = (step) => across(step / last);
  drawing.append(
    svg("text", { x: across(0), y: floor + 18, text: "step 0" }),
    svg("text", { x: across(1), y: floor + 18, "text-anchor": "end", text: grouped(last) }),
  );
  const ends = [];
  for (const { run, part, points } of curves) {
    const at = points.map(([step, value]) => [x(step), y(value)]);
    drawing.append(svg("path", { class: `curve ${part} p${run.place % 10}`, "data-place": run.place, "data-part": part, "stroke-dasharray": run.dashes || null, d: line(at.length > 1 ? at : [at[0], at[0]]) }, named(run)));
    const kept = points.find(([step]) => step === run.kept);
    if (kept && part === parts[0]) drawing.append(svg("circle", { class: `ring p${run.place % 10}`, "data-place": run.place, cx: x(kept[0]), cy: y(kept[1]), r: 4.5 }, named(run)));
    if (part === parts[0]) ends.push([run, at.at(-1)[0] + 13, at.at(-1)[1]]);
  }
  drawing.append(...numbers(ends));
  return drawing;
}

/** The error of a run's model, and of PCA, at their compression: PCA is in the evaluation, for the very same images. */
function point({ compression, evaluation, best }, part) {
  const own = evaluation?.outdated === false ? evaluation.rows[0] : null;
  const mse = own ? (part === "test" ? own.mse : own.validation_mse) : best?.[`${part}_mse`];
  return compression !== null && mse > 0 ? [compression, mse] : null;
}

function pca({ evaluation }, part) {
  const row = evaluation?.rows.find(({ name }) => name === "PCA");
  if (!row?.numbers) return [];
  const values = evaluation.shape.reduce((all, one) => all * one, 1);
  if (part === "test") return [[values / row.numbers, row.mse]];
  const doubled = evaluation.doubled_pca === null ? [] : [[Math.max(1, values / (2 * evaluation.numbers)), evaluation.doubled_pca]];
  return [[values / row.numbers, row.validation_mse], ...doubled];
}

/** The errors of runs against their compression, with PCA's; `part` is "validation" or "test". */
export function trade(runs, part, width) {
  const points = runs.map((run) => [run, point(run, part)]).filter(([, at]) => at);
  if (!points.length) return missing("The compression of these runs, or their error, is not known.");
  // Several runs measured PCA with as many numbers; it is the same.
  const line1 = [...new Map(runs.flatMap((run) => pca(run, part)).filter(([, value]) => value > 0)).entries()].sort(([one], [other]) => one - other);
  const all = [...points.map(([, at]) => at), ...line1];
  const [low, high] = range(all.map(([, value]) => value));
  const [least, most] = range(all.map(([value]) => value), 0.08);
  const known = line1.length ? "with PCA" : "without PCA, which no evaluation here has";
  const { drawing, y, across, floor } = frame({ width, height: HEIGHT, edges: EDGES, low, high,
    name: `Mean squared error on ${part} images against compression: ${points.length} run${points.length === 1 ? "" : "s"}, ${known}. The table has the numbers.` });
  const x = (value) => across(Math.log(value / least) / Math.log(most / least));
  for (const value of ticks(least, most, Math.max(2, Math.floor(width / 90)))) {
    drawing.append(svg("line", { class: "gridline", x1: x(value), x2: x(value), y1: EDGES[0], y2: floor }),
      svg("text", { x: x(value), y: floor + 16, "text-anchor": "middle", text: `${grouped(value)} : 1` }));
  }
  drawing.append(svg("text", { x: across(0.5), y: HEIGHT - 4, "text-anchor": "middle", text: "numbers of an image for each number of its code" }));
  if (line1.length) {
    const at = line1.map(([value, error]) => [x(value), y(error)]);
    drawing.append(svg("path", { class: "pca", d: line(at) }), ...at.map(([a, b]) => svg("rect", { class: "pca", x: a - 3, y: b - 3, width: 6, height: 6 })),
      svg("text", { class: "pca", x: at.at(-1)[0], y: at.at(-1)[1] - 8, "text-anchor": "end", text: "PCA" }));
  }
  drawing.append(...points.map(([run, [value, error]]) => svg("circle", { class: `dot p${run.place % 10}`, "data-place": run.place, cx: x(value), cy: y(error), r: 5 }, named(run))),
    ...numbers(points.map(([run, [value, error]]) => [run, x(value) + 13, y(error)])));
  return line1.length ? drawing : html("div", {}, drawing, missing("No run here has an evaluation, so PCA is not known: halfstride evaluate RUN writes one."));
}
