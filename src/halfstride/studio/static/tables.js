// The views of one layer as tables, for screen readers: the same numbers as on the canvases, at the same step.

import { textOf } from "./cells.js";
import { html, written } from "./dom.js";

const MOST = 2000; // entries of a table: a larger one is described

/** The tables of a view, from the server's explanation and the view's cells. */
export function tables(name, told, cells, turned) {
  const { input_size: n, kernel_size: k, dims } = told.layer;
  const o = told.output_size;
  const values = (kind) => cells.filter((cell) => cell.kind === kind).sort((a, b) => a.index - b.index).map(textOf);
  if (name === "scatter") return [grid("Input", n, values("input")), ...kernels(told, k, dims, values("kernel")), grid("Output at this step", o, values("output"))];
  if (name === "emulated") {
    const { size, source } = told.emulated;
    const padded = source.map((from) => (from >= 0 ? written(told.input[from]) : from === -1 ? "0 between" : "padding"));
    return [grid("Input with zeros and padding", size, padded), grid("Output at this step", o, values("output"))];
  }
  if (name === "phases") {
    return told.phases.kernels.map(({ remainder, size, taps, kernel, gain }) =>
      grid(`Phase ${remainder.join(", ")}: sum of its kernel ${written(gain)}`, size[1], kernel.map((value, at) => (taps[at] ? written(value) : "no tap"))));
  }
  if (name === "matrix") return [matrix(told, turned)];
  return [grid(`Number of products at each ${told.coverage.side}`, told.coverage.side === "input" ? n : o, told.coverage.counts.map(String))];
}

function kernels(told, k, dims, values) {
  const taps = k ** dims;
  return Array.from({ length: told.kernels }, (_, place) =>
    grid(told.kernels > 1 ? `Kernel of phase ${place + 1}` : "Kernel", k, values.slice(place * taps, (place + 1) * taps)));
}

function matrix({ matrix: { i, j, value }, input, output }, turned) {
  const [rows, columns] = turned ? [input.length, output.length] : [output.length, input.length];
  if (rows * columns > MOST) return html("p", { text: `The matrix has ${rows} rows and ${columns} columns: too many for a table. Choose a smaller layer.` });
  const entries = Array(rows * columns).fill("0");
  value.forEach((one, place) => (entries[turned ? i[place] * columns + j[place] : j[place] * columns + i[place]] = written(one)));
  return grid(turned ? "Transposed matrix" : "Matrix: a row for each output, a column for each input", columns, entries);
}

/** A table of values row by row, with the numbers of its rows and columns. */
function grid(caption, columns, values) {
  const rows = Array.from({ length: Math.ceil(values.length / columns) }, (_, row) => values.slice(row * columns, (row + 1) * columns));
  return html("table", {},
    html("caption", { text: caption }),
    html("thead", {}, html("tr", {}, html("td"), ...Array.from({ length: columns }, (_, place) => html("th", { scope: "col", text: place })))),
    html("tbody", {}, ...rows.map((row, place) => html("tr", {}, html("th", { scope: "row", text: place }), ...row.map((text) => html("td", { text }))))));
}
