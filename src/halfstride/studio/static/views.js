// The views of one layer. Each is a function of what the server told about the layer: it returns a drawing, registers
// its cells under what they stand for, and says how it follows the steps. Nothing is computed here.

import { cell, corner, dot, drawing, grid, label, stand, write } from "./cells.js";
import { svg, written } from "./dom.js";

const GAP = 1;
const EDITABLE = { editable: true };

const side = (told, size) => ({ columns: size, rows: told.layer.dims === 2 ? size : 1 });

/** Each input times the kernel, landing and adding up. */
export function scatter(told, lights, narrow) {
  return told.layer.dims === 1 ? scatterRows(told, lights) : scatterPlane(told, lights, narrow);
}

function scatterPlane(told, lights, narrow) {
  const n = told.layer.input_size;
  const o = told.output_size;
  const kernel = kernelGrids(told, 0, n + GAP + 0.7);
  const left = Math.max(n, kernel.width, 2.4);
  const heightLeft = n + GAP + 0.7 + kernel.height;
  const across = !narrow || left + o < 14;
  const [x, y] = across ? [left + GAP, 0] : [0, heightLeft + GAP + 0.3];
  const inputs = grid(0, 0.6, n, told.input, "input", 0, EDITABLE);
  const outputs = grid(x, y + 0.6, o, told.output, "output");
  lights.addAll("input", inputs);
  lights.addAll("kernel", kernel.cells);
  lights.addAll("output", outputs);
  const node = drawing(
    across ? left + GAP + o : Math.max(left, o),
    across ? Math.max(heightLeft, o + 0.6) : y + o + 0.6,
    "The input, the kernel, and the output that adds up",
    [label(0, 0.25, "input", "input"), ...inputs, ...kernel.nodes, label(x, y + 0.25, "output", "output"), ...outputs],
  );
  let landing = [];
  return {
    node,
    paint(now) {
      paintOutputs(told, outputs, now);
      for (const j of landing) corner(outputs[j], null);
      const terms = now.focus?.kind === "input" ? told.terms.filter((term) => term.i === now.focus.index) : [];
      for (const { j, product } of terms) corner(outputs[j], product);
      landing = terms.map((term) => term.j);
    },
  };
}

/** One axis: as in long multiplication, a row for every input, moved by the stride, and the sum below. */
function scatterRows(told, lights) {
  const n = told.layer.input_size;
  const o = told.output_size;
  const kernel = kernelGrids(told, 2, 0);
  const top = kernel.height + 0.5;
  const inputs = told.input.map((value, i) => cell(0, top + i, "input", i, value, EDITABLE));
  const products = told.terms.map(({ i, t, j, product }) => {
    const node = cell(2 + j, top + i, "product", null, product);
    lights.add("term", `${i},${t}`, node);
    return node;
  });
  const outputs = grid(2, top + n + 0.3, o, told.output, "output");
  lights.addAll("input", inputs);
  lights.addAll("kernel", kernel.cells);
  lights.addAll("output", outputs);
  const bottom = top + n + 0.3;
  const node = drawing(2 + Math.max(o, kernel.width), bottom + 1, "Each input times the kernel, and their sum", [
    label(0, top - 0.35, "input", "input"),
    ...kernel.nodes,
    ...inputs,
    ...products,
    svg("line", { class: "rule", x1: 2, x2: 2 + o, y1: bottom - 0.16, y2: bottom - 0.16 }),
    label(0, bottom + 0.46, "output", "output"),
    ...outputs,
  ]);
  return {
    node,
    paint(now) {
      paintOutputs(told, outputs, now);
      told.terms.forEach((term, place) => {
        const there = now.by === "inputs" ? term.i <= now.cursor : term.j <= now.cursor;
        write(products[place], now.done || there ? term.product : null);
      });
    },
  };
}

/** The same sums, gathered: a kernel slides over the input, spread out and padded. */
export function emulated(told, lights, narrow) {
  const { size, source, windows } = told.emulated;
  const o = told.output_size;
  const two = told.layer.dims === 2;
  const cells = source.map((from, place) => {
    const [x, y] = [place % size, 0.6 + Math.floor(place / size)];
    if (from >= 0) return cell(x, y, "input", from, told.input[from]);
    return cell(x, y, from === -1 ? "between" : "padding", null, from === -1 ? 0 : null);
  });
  const rows = two ? size : 1;
  const across = two && (!narrow || size + o < 17);
  const [x, y] = across ? [size + GAP, 0] : [0, rows + 0.6 + 0.8];
  const outputs = grid(x, y + 0.6, o, told.output, "output");
  lights.addAll("output", outputs);
  const names = {
    conv: "padded input",
    transposed: "input, with zeros between and padding",
    resize: "input, repeated and padded",
    subpixel: "padded input",
  };
  const node = drawing(
    across ? size + GAP + o : Math.max(size, o, 7),
    across ? Math.max(size, o) + 0.6 : y + 0.6 + (two ? o : 1),
    "The kernel sliding over the padded input",
    [label(0, 0.25, names[told.layer.form], "input"), ...cells, label(x, y + 0.25, "output", "output"), ...outputs],
  );
  let shown = [];
  return {
    node,
    paint(now) {
      paintOutputs(told, outputs, now);
      for (const place of shown) {
        cells[place].classList.remove("window", "lit");
        corner(cells[place], null);
      }
      shown = [];
      if (now.focus?.kind === "output") {
        for (const { cell: place, t } of windows[now.focus.index]) {
          cells[place].classList.add("window");
          cells[place].classList.toggle("lit", source[place] >= 0);
          corner(cells[place], told.kernel[t]);
          shown.push(place);
        }
      } else if (now.focus?.kind === "input") {
        source.forEach((from, place) => from === now.focus.index && shown.push(place));
        for (const place of shown) cells[place].classList.add("lit");
      }
    },
  };
}

/** Outputs with the same remainder share a small kernel of their own. */
export function phases(told, lights, narrow) {
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
  const nodes = [];
  const outputs = [];
  kernels.forEach((phase, place) => {
    const x = (place % perRow) * (block.width + 0.7);
    const y = Math.floor(place / perRow) * block.height;
    const name = `${phase.remainder.join(", ")}`;
    const total = phase.taps.reduce((sum, taps) => sum + taps, 0);
    nodes.push(label(x, y + 0.3, `phase ${name} · ${total} ${total === 1 ? "tap" : "taps"} · Σ ${written(phase.gain)}`));
    phase.kernel.forEach((value, at) => {
      const taps = phase.taps[at];
      const node = cell(
        x + (at % phase.size[1]), y + 0.65 + Math.floor(at / phase.size[1]), taps ? "kernel" : "padding", null,
        taps ? value : null,
      );
      stand(node, "phase", place);
      for (const position of phase.positions) lights.add(which, position, node);
      nodes.push(node);
    });
    const left = x + small + 0.5;
    const firstColumn = Math.min(...phase.positions.map((position) => position % wide));
    const firstRow = Math.min(...phase.positions.map((position) => Math.floor(position / wide)));
    for (const position of phase.positions) {
      const column = (position % wide) - firstColumn;
      const row = told.layer.dims === 2 ? Math.floor(position / wide) - firstRow : 0;
      const node = cell(left + column / s, y + 0.65 + row / s, which, position, values[position]);
      lights.add(which, position, node);
      outputs[position] = node;
      nodes.push(node);
    }
  });
  const lines = Math.ceil(kernels.length / perRow);
  const node = drawing(
    perRow * (block.width + 0.7) - 0.7, lines * block.height - 0.4, "The phases, each with its kernel", nodes,
  );
  return { node, paint: (now) => which === "output" && paintOutputs(told, outputs, now) };
}

/** Every output as a row of the matrix that takes the input there. */
export function matrix(told, lights, narrow, turned) {
  const inputs = told.input.length;
  const outputs = told.output.length;
  const [columns, rows] = turned ? [outputs, inputs] : [inputs, outputs];
  const kinds = turned ? ["output", "input"] : ["input", "output"];
  const values = turned ? [told.output, told.input] : [told.input, told.output];
  const nodes = [];
  const shown = [];
  const largest = Math.min(46, Math.max(7, 430 / (rows + 1.4)));
  const plain = Math.min(largest, 560 / (columns + 1.4)) < 15; // too small for numbers
  const strip = (kind, index, x, y, value) => {
    const node = plain ? dot(x, y, kind, index) : cell(x, y, kind, index, value);
    lights.add(kind, index, node);
    if (kind === "output") shown[index] = node;
    nodes.push(node);
  };
  for (let column = 0; column < columns; column++) strip(kinds[0], column, 1.4 + column, 0, values[0][column]);
  for (let row = 0; row < rows; row++) strip(kinds[1], row, 0, 1.4 + row, values[1][row]);
  nodes.push(svg("rect", { class: "rule", x: 1.3, y: 1.3, width: columns + 0.12, height: rows + 0.12, fill: "none", rx: 0.1 }));
  for (const { j, i, value } of told.matrix) {
    const [x, y] = (turned ? [j, i] : [i, j]).map((place) => 1.4 + place);
    const node = plain ? dot(x, y, "kernel", null) : cell(x, y, "kernel", null, value);
    stand(node, "entry", `${j},${i}`);
    lights.add("entry", `${j},${i}`, node);
    nodes.push(node);
  }
  const name = turned ? "The transposed matrix" : "The matrix of the layer";
  const node = drawing(columns + 1.4, rows + 1.4, name, nodes, largest);
  return {
    node,
    paint: (now) => (plain ? paintTouched(shown, now) : paintOutputs(told, shown, now)),
  };
}

/** How many products reach each position. */
export function coverage(told) {
  const { counts, side: which } = told.coverage;
  const size = which === "input" ? told.layer.input_size : told.output_size;
  const most = Math.max(1, ...counts);
  const nodes = counts.map((count, place) => {
    const node = cell(place % size, told.layer.dims === 2 ? Math.floor(place / size) : 0, "count", null, count);
    node.firstElementChild.setAttribute("class", which);
    node.firstElementChild.style.fill = `color-mix(in oklab, var(--${which}) ${Math.round((count / most) * 85)}%, var(--panel))`;
    if (count / most > 0.55) node.querySelector("text").style.fill = "var(--on-accent)";
    return node;
  });
  return drawing(size, told.layer.dims === 2 ? size : 1, `Products that reach each ${which} position`, nodes, 34);
}

function kernelGrids(told, x, y) {
  const k = told.layer.kernel_size;
  const two = told.layer.dims === 2;
  const rows = two ? k : 1;
  const perRow = two ? told.layer.stride : told.kernels;
  const cells = [];
  const nodes = [label(x, y + 0.25, told.kernels > 1 ? "kernels, one for each phase" : "kernel", "kernel")];
  for (let block = 0; block < told.kernels; block++) {
    const left = x + (block % perRow) * (k + 0.35);
    const top = y + 0.6 + Math.floor(block / perRow) * (rows + 0.35);
    const values = told.kernel.slice(block * rows * k, (block + 1) * rows * k);
    cells.push(...grid(left, top, k, values, "kernel", block * rows * k, EDITABLE));
  }
  nodes.push(...cells);
  const across = Math.min(perRow, told.kernels);
  const down = Math.ceil(told.kernels / perRow);
  return { nodes, cells, width: across * (k + 0.35) - 0.35, height: 0.6 + down * (rows + 0.35) - 0.35 };
}

/** What the output holds at this step: sums so far, or the outputs that are done. */
function paintOutputs(told, outputs, now) {
  outputs.forEach((node, j) => {
    const reached = now.reached === null || now.reached.has(j);
    const value = now.by === "inputs" && !now.done ? told.partial[now.cursor][j] : told.output[j];
    write(node, reached ? value : null);
  });
  paintTouched(outputs, now);
}

const paintTouched = (outputs, now) => outputs.forEach((node, j) => node.classList.toggle("touched", now.touched.has(j)));
