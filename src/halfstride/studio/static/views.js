// The views of one layer. Each is a function of the server's explanation of the layer and returns a drawing, whose cells
// name what they show and which is updated at every step. Nothing is computed here.

import { cell, drawing, grid, label } from "./cells.js";
import { written } from "./dom.js";

const GAP = 1;
const EDITABLE = { editable: true };

const side = (told, size) => ({ columns: size, rows: told.layer.dims === 2 ? size : 1 });

/** Each input times the kernel, added to the output. */
export function scatter(told, narrow) {
  return told.layer.dims === 1 ? scatterRows(told) : scatterPlane(told, narrow);
}

function scatterPlane(told, narrow) {
  const n = told.layer.input_size;
  const o = told.output_size;
  const kernel = kernelGrids(told, 0, n + GAP + 0.7);
  const left = Math.max(n, kernel.width, 2.4);
  const heightLeft = n + GAP + 0.7 + kernel.height;
  const across = !narrow || left + o < 14;
  const [x, y] = across ? [left + GAP, 0] : [0, heightLeft + GAP + 0.3];
  const inputs = grid(0, 0.6, n, told.input, "input", 0, EDITABLE);
  const outputs = grid(x, y + 0.6, o, told.output, "output");
  return drawing(
    across ? left + GAP + o : Math.max(left, o),
    across ? Math.max(heightLeft, o + 0.6) : y + o + 0.6,
    "The input, the kernel, and the sums in the output",
    {
      cells: [...inputs, ...kernel.cells, ...outputs],
      labels: [label(0, 0.25, "input", "input"), kernel.label, label(x, y + 0.25, "output", "output")],
      follow(now) {
        fillOutputs(told, outputs, now);
        for (const one of outputs) one.corner = null;
        if (now.focus?.kind !== "input") return;
        told.matrix.i.forEach((i, place) => {
          if (i === now.focus.index) outputs[told.matrix.j[place]].corner = told.matrix.contribution[place];
        });
      },
    },
  );
}

/** One axis: as in long multiplication, a row for every input, shifted by the stride, and the sums below. */
function scatterRows(told) {
  const n = told.layer.input_size;
  const o = told.output_size;
  const kernel = kernelGrids(told, 2, 0);
  const top = kernel.height + 0.5;
  const bottom = top + n + 0.3;
  const { i: rows, j: columns, contribution } = told.matrix;
  const inputs = told.input.map((value, i) => cell(0, top + i, "input", i, value, EDITABLE));
  const products = rows.map((i, place) =>
    cell(2 + columns[place], top + i, "product", null, contribution[place], { keys: [`entry ${columns[place]},${i}`] }),
  );
  const outputs = grid(2, bottom, o, told.output, "output");
  return drawing(2 + Math.max(o, kernel.width), bottom + 1, "Each input times the kernel, and their sum", {
    cells: [...kernel.cells, ...inputs, ...products, ...outputs],
    labels: [label(0, top - 0.35, "input", "input"), kernel.label, label(0, bottom + 0.46, "output", "output")],
    rules: [{ x: 2, y: bottom - 0.16, width: o, height: 0 }],
    follow(now) {
      fillOutputs(told, outputs, now);
      products.forEach((one, place) => {
        const there = now.by === "inputs" ? rows[place] <= now.cursor : columns[place] <= now.cursor;
        one.value = now.done || there ? contribution[place] : null;
      });
    },
  });
}

/** The same sums by a kernel that slides over the input with zeros between and around it. */
export function emulated(told, narrow) {
  const { size, source, cells: windows, taps } = told.emulated;
  const o = told.output_size;
  const two = told.layer.dims === 2;
  const cells = source.map((from, place) => {
    const [x, y] = [place % size, 0.6 + Math.floor(place / size)];
    // `follow` sets what is highlighted here: padding under the kernel is not.
    if (from >= 0) return cell(x, y, "input", from, told.input[from], { own: true });
    return cell(x, y, from === -1 ? "between" : "padding", null, from === -1 ? 0 : null, { own: true });
  });
  const rows = two ? size : 1;
  const across = two && (!narrow || size + o < 17);
  const [x, y] = across ? [size + GAP, 0] : [0, rows + 0.6 + 0.8];
  const outputs = grid(x, y + 0.6, o, told.output, "output");
  const changes = {
    repeated: source.filter((from) => from >= 0).length > told.input.length,
    "with zeros between": source.includes(-1),
    padded: source.includes(-2),
  };
  const done = Object.keys(changes).filter((change) => changes[change]);
  const name = done.length ? `input, ${done.join(" and ")}` : "input";
  return drawing(
    across ? size + GAP + o : Math.max(size, o),
    across ? Math.max(size, o) + 0.6 : y + 0.6 + (two ? o : 1),
    "The kernel sliding over the padded input",
    {
      cells: [...cells, ...outputs],
      labels: [label(0, 0.25, name, "input"), label(x, y + 0.25, "output", "output")],
      follow(now) {
        fillOutputs(told, outputs, now);
        const input = now.focus?.kind === "input" ? now.focus.index : null;
        cells.forEach((one, place) => Object.assign(one, { window: false, corner: null, lit: source[place] === input }));
        if (now.focus?.kind !== "output") return;
        windows[now.focus.index].forEach((place, at) => {
          const value = told.kernel[taps[now.focus.index][at]];
          Object.assign(cells[place], { window: true, corner: value, lit: source[place] >= 0 });
        });
      },
    },
  );
}

/** Outputs with the same index modulo the stride, with their small kernel. */
export function phases(told, narrow) {
  const { kernels, side: which } = told.phases;
  const s = told.layer.stride;
  const wide = which === "input" ? told.layer.input_size : told.output_size;
  const values = which === "input" ? told.input : told.output;
  const { rows, columns } = side(told, Math.ceil(wide / s));
  const small = Math.max(...kernels.map((phase) => phase.size[1]), 0);
  const tall = Math.max(...kernels.map((phase) => phase.size[0]), 0);
  const block = { width: Math.max(small + 0.5 + columns, 5.9), height: Math.max(tall, rows) + 1.5 };
  let perRow = told.layer.dims === 2 ? s : Math.min(s, Math.max(1, Math.floor(20 / block.width)));
  if (narrow) perRow = Math.min(perRow, Math.max(1, Math.floor(14 / block.width)));
  const labels = [];
  const cells = [];
  const outputs = [];
  kernels.forEach((phase, place) => {
    const x = (place % perRow) * (block.width + 0.7);
    const y = Math.floor(place / perRow) * block.height;
    const total = phase.taps.reduce((sum, taps) => sum + taps, 0);
    labels.push(label(x, y + 0.3, `phase ${phase.remainder.join(", ")} · ${total} ${total === 1 ? "tap" : "taps"} · Σ ${written(phase.gain)}`));
    const keys = phase.positions.map((position) => `${which} ${position}`);
    phase.kernel.forEach((value, at) => {
      const taps = phase.taps[at];
      const [left, top] = [x + (at % phase.size[1]), y + 0.65 + Math.floor(at / phase.size[1])];
      cells.push(cell(left, top, "phase", place, taps ? value : null, { look: taps ? "kernel" : "padding", keys }));
    });
    const left = x + small + 0.5;
    const firstColumn = Math.min(...phase.positions.map((position) => position % wide));
    const firstRow = Math.min(...phase.positions.map((position) => Math.floor(position / wide)));
    for (const position of phase.positions) {
      const column = (position % wide) - firstColumn;
      const row = told.layer.dims === 2 ? Math.floor(position / wide) - firstRow : 0;
      outputs[position] = cell(left + column / s, y + 0.65 + row / s, which, position, values[position]);
      cells.push(outputs[position]);
    }
  });
  const lines = Math.ceil(kernels.length / perRow);
  return drawing(perRow * (block.width + 0.7) - 0.7, lines * block.height - 0.4, "The phases, each with its kernel", {
    cells,
    labels,
    follow: (now) => which === "output" && fillOutputs(told, outputs, now),
  });
}

/** The layer as a matrix: a row for every output. */
export function matrix(told, narrow, turned) {
  const [columns, rows] = turned ? ["output", "input"] : ["input", "output"];
  const [wide, tall] = [told[columns].length, told[rows].length];
  const largest = Math.min(46, Math.max(4, 430 / (tall + 1.4)));
  const plain = Math.min(largest, 560 / (wide + 1.4)) < 15; // too small for numbers
  const heads = {
    [columns]: told[columns].map((value, place) => cell(1.4 + place, 0, columns, place, value, { plain })),
    [rows]: told[rows].map((value, place) => cell(0, 1.4 + place, rows, place, value, { plain })),
  };
  const entries = told.matrix.value.map((value, place) => {
    const [j, i] = [told.matrix.j[place], told.matrix.i[place]];
    const [x, y] = turned ? [j, i] : [i, j];
    return cell(1.4 + x, 1.4 + y, "entry", `${j},${i}`, value, { look: "kernel", plain });
  });
  return drawing(wide + 1.4, tall + 1.4, turned ? "The transposed matrix" : "The matrix of the layer", {
    cells: [...heads[columns], ...heads[rows], ...entries],
    rules: [{ x: 1.3, y: 1.3, width: wide + 0.12, height: tall + 0.12 }],
    largest,
    follow: (now) => fillOutputs(told, heads.output, now),
  });
}

/** The number of products at each position. */
export function coverage(told) {
  const { counts, side: which } = told.coverage;
  const { columns, rows } = side(told, which === "input" ? told.layer.input_size : told.output_size);
  const most = Math.max(1, ...counts);
  const cells = grid(0, 0, columns, counts, "count").map((one) => ({ ...one, index: null, look: which, share: one.value / most }));
  return drawing(columns, rows, `Number of products at each ${which}`, { cells, largest: 34 });
}

function kernelGrids(told, x, y) {
  const k = told.layer.kernel_size;
  const two = told.layer.dims === 2;
  const rows = two ? k : 1;
  const perRow = two ? told.layer.stride : told.kernels;
  const cells = [];
  for (let block = 0; block < told.kernels; block++) {
    const left = x + (block % perRow) * (k + 0.35);
    const top = y + 0.6 + Math.floor(block / perRow) * (rows + 0.35);
    const values = told.kernel.slice(block * rows * k, (block + 1) * rows * k);
    cells.push(...grid(left, top, k, values, "kernel", block * rows * k, EDITABLE));
  }
  const across = Math.min(perRow, told.kernels);
  const down = Math.ceil(told.kernels / perRow);
  return {
    cells,
    label: label(x, y + 0.25, told.kernels > 1 ? "kernels, one for each phase" : "kernel", "kernel"),
    width: across * (k + 0.35) - 0.35,
    height: 0.6 + down * (rows + 0.35) - 0.35,
  };
}

/** Set the output at this step: the sums so far, or the outputs computed so far. */
function fillOutputs(told, outputs, now) {
  outputs.forEach((one, j) => {
    const reached = now.reached === null || now.reached.has(j);
    const value = now.by === "inputs" && !now.done ? told.partial[now.cursor][j] : told.output[j];
    one.value = reached ? value : null;
    one.touched = now.touched.has(j);
  });
}
