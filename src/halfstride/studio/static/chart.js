// Charts with logarithmic axes.

import { svg } from "./dom.js";

const STEPS = [[1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]; // of round numbers in each power of ten

/** Round numbers from `low` to `high`, or where there are too few of them some that are evenly spaced. */
export function ticks(low, high, most = 5) {
  const powers = Array.from({ length: 24 }, (_, place) => place - 12);
  const inside = (steps) => powers.flatMap((power) => steps.map((step) => Number(`${step}e${power}`))).filter((value) => value >= low && value <= high);
  const round = STEPS.map(inside).find((found) => found.length <= most) ?? inside([1]).filter((_, place) => place % 2 === 0);
  if (round.length > 1) return round;
  const digits = high / low < 1.5 ? 3 : 2;
  return Array.from({ length: 4 }, (_, place) => Number((low * (high / low) ** ((place + 0.5) / 4)).toPrecision(digits)));
}

/** The least and the largest of some positive numbers, a little apart. */
export function range(values, room = 0.04) {
  const wide = 10 ** room;
  return [Math.min(...values) / wide, Math.max(...values) * wide];
}

/**
 * A drawing with a logarithmic axis from bottom to top and grid lines, and the places of values in it. `across` places a
 * share from 0 to 1 of the width.
 */
export function frame({ width, height, edges: [top, right, bottom, left], name, low, high, ...attributes }) {
  const y = (value) => top + (Math.log(high / value) / Math.log(high / low)) * (height - top - bottom);
  const across = (share) => left + share * (width - left - right);
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name, ...attributes });
  for (const value of ticks(low, high, Math.max(2, Math.floor((height - top - bottom) / 30)))) {
    drawing.append(
      svg("line", { class: "gridline", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end", text: value }),
    );
  }
  return { drawing, y, across, floor: height - bottom };
}
