// Grids of numbered cells, one unit wide each, and what lights up together.

import { svg, written } from "./dom.js";

const SIDE = 0.92;

// Cloned a thousand times for every picture, which is much quicker than making as many elements one by one.
const CELL = svg("g", {}, svg("rect", { width: SIDE, height: SIDE, rx: 0.12 }), svg("text", { class: "number", x: SIDE / 2, y: SIDE / 2 + 0.02 }));
const DOT = svg("rect", { width: SIDE, height: SIDE });

/** One cell. `kind` and `index` say what it stands for; the same thing may have cells in several views. */
export function cell(x, y, kind, index, value, { editable = false } = {}) {
  const node = CELL.cloneNode(true);
  node.setAttribute("class", editable ? `cell ${kind} editable` : `cell ${kind}`);
  node.setAttribute("transform", `translate(${x} ${y})`);
  if (index !== null) stand(node, kind, index);
  write(node, value);
  return node;
}

/** A cell without a number, since it has none or would be too small for it. */
export function dot(x, y, kind, index) {
  const node = DOT.cloneNode();
  node.setAttribute("class", `dot ${kind}`);
  place(node, x, y);
  if (index !== null) stand(node, kind, index);
  return node;
}

function place(node, x, y) {
  node.setAttribute("x", x);
  node.setAttribute("y", y);
}

/** Say what a cell stands for. */
export function stand(node, kind, index) {
  node.setAttribute("data-kind", kind);
  node.setAttribute("data-index", index);
}

/** Put a number (or nothing) into a cell. */
export function write(node, value) {
  const text = value === null || value === undefined ? "" : written(value);
  const number = node.children[1];
  if (number.textContent === text) return; // most cells stay as they are from step to step
  number.textContent = text;
  node.classList.toggle("long", text.length === 3 || text.length === 4);
  node.classList.toggle("longer", text.length > 4);
}

/** A small number in a cell's corner; nothing takes it away. */
export function corner(node, value) {
  let text = node.querySelector(".corner");
  if (!text) {
    if (value === null) return;
    text = svg("text", { class: "corner", x: SIDE - 0.2, y: 0.18 });
    node.append(text);
  }
  text.textContent = value === null ? "" : written(value);
}

/** Rows and columns of cells, row by row. */
export function grid(x, y, columns, values, kind, first = 0, extra = {}) {
  return values.map((value, place) =>
    cell(x + (place % columns), y + Math.floor(place / columns), kind, first + place, value, extra),
  );
}

export const label = (x, y, text, kind = "") => svg("text", { class: `tag ${kind}`, x, y, text });

/** A drawing of so many units, its cells no larger than is pleasant: so many pixels, more on a very large screen. */
export function drawing(width, height, name, nodes, largest = 46) {
  const node = svg("svg", {
    class: "cells",
    viewBox: `-0.05 -0.05 ${width + 0.1} ${height + 0.1}`,
    role: "group",
    "aria-label": name,
  });
  node.style.maxWidth = `${(width * largest) / 16}rem`;
  node.append(...nodes);
  return node;
}

/** Which cells of all views stand for one thing, so that they light up together. */
export class Lights {
  constructor() {
    this.cells = new Map();
    this.lit = [];
  }

  add(kind, index, node) {
    const key = `${kind} ${index}`;
    if (!this.cells.has(key)) this.cells.set(key, []);
    this.cells.get(key).push(node);
  }

  addAll(kind, nodes) {
    nodes.forEach((node, index) => this.add(kind, index, node));
  }

  show(wanted) {
    for (const node of this.lit) node.classList.remove("lit");
    this.lit = wanted.flatMap(([kind, index]) => this.cells.get(`${kind} ${index}`) ?? []);
    for (const node of this.lit) node.classList.add("lit");
  }
}

/** "2, 3" for position 11 of rows of 4; in one dimension "11". */
export function position(index, size, dims) {
  return dims === 2 ? `${Math.floor(index / size)}, ${index % size}` : String(index);
}
