// How many pictures have which score, above the same of good validation images, with a threshold through both.

import { grouped, html, svg, written } from "./dom.js";

const EDGE = 9; // pixels on both sides: half the thumb of the slider below, which so lies under the line
const [HEAD, UPPER, LOWER, AXIS] = [17, 116, 48, 20];

/** From where to where scores are drawn: with room above the threshold, but not to the last of a few far out. */
export function extent(scores, good, threshold) {
  const all = [...scores, ...good, threshold].sort((one, other) => one - other);
  const wide = Math.max(3 * Math.max(threshold, good.at(-1) ?? 0, 1), all[Math.floor(0.9 * (all.length - 1))]);
  const [low, high] = [all[0], Math.min(all.at(-1), wide)];
  const room = 0.02 * (high - low) || 0.5;
  return [low - room, high + room];
}

/**
 * Draw both histograms, as wide as their place.
 *
 * `kinds` are `{ name, scores, look }`, stacked from the bottom; returns a function that moves the threshold.
 */
export function histogram(place, kinds, good, [low, high]) {
  const width = Math.max(place.clientWidth, 240);
  const bars = Math.max(12, Math.min(60, Math.floor((width - 2 * EDGE) / 12)));
  const x = (score) => EDGE + ((score - low) / (high - low)) * (width - 2 * EDGE);
  const tallied = (scores) => {
    const counts = new Array(bars).fill(0);
    for (const score of scores) counts[Math.max(0, Math.min(bars - 1, Math.floor(((score - low) / (high - low)) * bars)))]++;
    return counts;
  };
  const rows = [
    { kinds, ground: HEAD + UPPER, height: UPPER, text: "judged pictures" },
    { kinds: [{ scores: good, look: "validation" }], ground: 2 * HEAD + UPPER + LOWER, height: LOWER, text: "good validation images" },
  ];
  const floor = rows[1].ground;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${floor + AXIS}`, width, height: floor + AXIS, role: "img",
    "aria-label": `Scores of ${grouped(kinds.reduce((sum, kind) => sum + kind.scores.length, 0))} judged pictures and of ${grouped(good.length)} good validation images` });
  for (const row of rows) {
    const counts = row.kinds.map((kind) => tallied(kind.scores));
    const most = Math.max(1, ...counts[0].map((_, bar) => counts.reduce((sum, one) => sum + one[bar], 0)));
    const step = (width - 2 * EDGE) / bars;
    for (let bar = 0; bar < bars; bar++) {
      let under = row.ground;
      row.kinds.forEach((kind, at) => {
        if (!counts[at][bar]) return;
        const tall = Math.max(1.5, (row.height * counts[at][bar]) / most);
        under -= tall;
        drawing.append(svg("rect", { class: kind.look, x: EDGE + bar * step + 0.5, y: under, width: step - 1, height: tall }));
      });
    }
    drawing.append(
      svg("line", { class: "ground", x1: EDGE, x2: width - EDGE, y1: row.ground, y2: row.ground }),
      svg("text", { x: EDGE, y: row.ground - row.height - 5, text: `${row.text}, up to ${grouped(most)} in a bar` }),
    );
  }
  const beyond = kinds.some((kind) => kind.scores.some((score) => score > high));
  const end = width - EDGE - (beyond ? 100 : 0);
  for (const tick of ticks(low, high, Math.max(2, Math.floor(width / 90))).filter((one) => x(one) <= end)) drawing.append(svg("text", { x: x(tick), y: floor + 15, "text-anchor": "middle", text: written(tick) }));
  if (beyond) drawing.append(svg("text", { x: width - EDGE, y: floor + 15, "text-anchor": "end", text: `${high.toFixed(1)} and above` }));
  const line = svg("line", { class: "limit", y1: 0, y2: floor });
  drawing.append(line);
  place.replaceChildren(drawing);
  return (threshold) => {
    const at = x(Math.min(Math.max(threshold, low), high));
    line.setAttribute("x1", at);
    line.setAttribute("x2", at);
  };
}

/** Round numbers inside a range, at most so many. */
function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) found.push(Number(tick.toPrecision(6)));
  return found;
}

/** What the colours of the bars mean. */
export const legend = (kinds) => kinds.map(({ name, look }) =>
  html("span", {}, svg("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }, svg("rect", { class: look, width: 8, height: 8 })), ` ${name}`));
