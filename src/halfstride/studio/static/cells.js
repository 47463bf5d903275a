// Cells with numbers, each one unit wide, drawn on a canvas. A layer has thousands of them: as elements of the document
// they took ten times as long to draw, at every step.

import { html, onShade, shade, written } from "./dom.js";

const SIDE = 0.92;
const EDGE = 0.05; // around a drawing, for the outlines of its outermost cells
const FONTS = { number: 0.4, long: 0.31, longer: 0.23, tag: 0.42, corner: 0.24 };
const FILL = { input: "input-tint", kernel: "kernel-tint", output: "output-tint", between: "well" };
const FILL_LIT = { input: "input", kernel: "kernel", output: "output", product: "kernel-tint" };
const INK = { between: "muted", padding: "muted", product: "muted" };
const INK_LIT = { product: "ink" };
const HEAT = { light: 0.7, dark: 0.45 }; // of the whole colour; numbers on it keep a contrast of 4.5

/**
 * One cell. `kind` and `index` are what it shows. It is highlighted with any of its `keys`, or by its view where it is
 * `own`. `look` is its colour. A plain cell is too small for its number; `share` is the strength of a cell's colour.
 */
export function cell(x, y, kind, index, value, options = {}) {
  const keys = index === null ? [] : [`${kind} ${index}`];
  return { x, y, kind, index, keys, value, look: kind, corner: null, lit: false, window: false, touched: false, ...options };
}

/** Rows and columns of cells, row by row. */
export function grid(x, y, columns, values, kind, first = 0, options = {}) {
  return values.map((value, place) =>
    cell(x + (place % columns), y + Math.floor(place / columns), kind, first + place, value, options),
  );
}

export const label = (x, y, text, look = "muted") => ({ x, y, text, look });

/**
 * A drawing, its width and height in units; a unit is at most `largest` pixels, more on a very large screen. `follow` is
 * called at every step and updates the cells.
 */
export function drawing(width, height, name, { cells, labels = [], rules = [], largest = 46, follow = () => {} }) {
  const ends = labels.map(({ x, text }) => x + measured(text));
  return { width: Math.max(width, ...ends) + 2 * EDGE, height: height + 2 * EDGE, name, cells, labels, rules, largest, follow };
}

const ruler = document.createElement("canvas").getContext("2d");
const family = getComputedStyle(document.body).fontFamily;

function measured(text) {
  ruler.font = `100px ${family}`;
  return (ruler.measureText(text).width * FONTS.tag) / 100;
}

// The page's colours: a canvas cannot use the variables of the style sheet.
let inks = new Map();
const probe = html("i", { hidden: true, class: "ink-probe" });
document.body.append(probe);
onShade(() => (inks = new Map()));
matchMedia("(forced-colors: active)").addEventListener("change", () => (inks = new Map()));

function ink(name) {
  if (!inks.has(name)) {
    probe.style.color = `var(--${name})`;
    inks.set(name, getComputedStyle(probe).color);
  }
  return inks.get(name);
}

/** The canvas of a view. */
export class Sheet {
  constructor(place) {
    this.canvas = html("canvas", { role: "img" });
    this.node = html("div", { class: "sheet", hidden: true }, this.canvas);
    this.words = html("div", { class: "visually-hidden tables" });
    this.drawing = null;
    place.replaceChildren(this.node, this.words);
    const fit = () => this.fit() && this.canvas.cells.length && this.paint();
    new ResizeObserver(fit).observe(this.canvas);
    addEventListener("resize", fit); // zooming changes pixels, and no sizes
    onShade(() => this.canvas.cells?.length && this.paint());
  }

  show(drawing) {
    this.drawing = drawing;
    this.node.hidden = false;
    this.canvas.cells = drawing.cells; // for tests
    this.canvas.setAttribute("aria-label", drawing.name);
    this.canvas.style.aspectRatio = `${drawing.width} / ${drawing.height}`;
    this.node.style.setProperty("--aspect", drawing.width / drawing.height);
    this.node.style.maxWidth = `${(drawing.width * drawing.largest) / 16}rem`;
    this.fit();
  }

  /** Show nothing, in the same room. */
  clear() {
    this.words.replaceChildren();
    this.canvas.cells = [];
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Give the numbers as tables as well, for those who do not see the canvas. */
  tell(tables) {
    this.words.replaceChildren(...tables);
  }

  /** Give the canvas as many pixels as it has on the screen; returns whether their number changed. */
  fit() {
    const { canvas, drawing } = this;
    if (!drawing || !canvas.clientWidth) return false;
    const width = Math.round(canvas.clientWidth * devicePixelRatio);
    const height = Math.round((width * drawing.height) / drawing.width);
    if (canvas.width === width && canvas.height === height) return false;
    canvas.width = width;
    canvas.height = height;
    return true;
  }

  /** Paint a step, or the same again. */
  paint(now = null) {
    const { canvas, drawing } = this;
    if (now) {
      drawing.follow(now);
      for (const one of drawing.cells) if (!one.own) one.lit = one.keys.some((key) => now.lit.has(key));
    }
    const pen = canvas.getContext("2d");
    const unit = canvas.width / drawing.width;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.lineJoin = "round";
    for (const one of drawing.cells) paintBox(pen, unit, one);
    for (const { x, y, width, height } of drawing.rules) {
      pen.strokeStyle = ink("line");
      pen.lineWidth = 0.04 * unit;
      pen.strokeRect((x + EDGE) * unit, (y + EDGE) * unit, width * unit, height * unit);
    }
    paintWords(pen, unit, drawing);
  }

  /** The cell under the pointer, if it shows a number. */
  at({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const unit = box.width / this.drawing.width;
    const [x, y] = [(clientX - box.left) / unit - EDGE, (clientY - box.top) / unit - EDGE];
    return this.drawing.cells.find((one) => one.index !== null && x >= one.x && x < one.x + 1 && y >= one.y && y < one.y + 1) ?? null;
  }

  /** Put an element over a cell, centred, in percent: it stays there when the drawing changes its size. */
  cover(node, { x, y }) {
    const { width, height } = this.drawing;
    node.style.left = `${(100 * (x + EDGE + SIDE / 2)) / width}%`;
    node.style.top = `${(100 * (y + EDGE + SIDE / 2)) / height}%`;
    node.style.width = `${(100 * SIDE) / width}%`;
    node.style.height = `${(100 * SIDE) / height}%`;
  }
}

function paintBox(pen, unit, one) {
  const fill = (one.lit ? FILL_LIT : FILL)[one.look];
  const [x, y, side] = [(one.x + EDGE) * unit, (one.y + EDGE) * unit, SIDE * unit];
  if (one.plain || one.share !== undefined) {
    pen.fillStyle = ink(one.look);
    pen.globalAlpha = one.plain ? (one.lit || one.touched ? 1 : 0.55) : HEAT[shade()] * one.share;
    pen.fillRect(x, y, side, side);
    pen.globalAlpha = 1;
    return;
  }
  const outlined = one.window || one.touched;
  if (!fill && !outlined && one.look !== "padding") return;
  pen.beginPath();
  pen.roundRect(x, y, side, side, 0.12 * unit);
  if (fill) {
    pen.fillStyle = ink(fill);
    pen.fill();
  }
  if (!outlined && one.look !== "padding") return;
  pen.strokeStyle = ink(outlined ? "kernel" : "line");
  pen.lineWidth = (outlined ? 0.07 : 0.04) * unit;
  pen.setLineDash(outlined ? [] : [0.1 * unit, 0.1 * unit]);
  pen.stroke();
  pen.setLineDash([]);
}

/** All texts, ordered by size: setting the font takes as long as drawing a text. */
function paintWords(pen, unit, { cells, labels }) {
  const words = { number: [], long: [], longer: [], tag: [], corner: [] };
  for (const { x, y, text, look } of labels) words.tag.push([text, x, y, look]);
  for (const one of cells) {
    if (one.plain) continue;
    const text = textOf(one);
    const size = text.length > 4 ? "longer" : text.length > 2 ? "long" : "number";
    const color = one.lit ? (INK_LIT[one.look] ?? "on-accent") : (INK[one.look] ?? "ink");
    if (text) words[size].push([text, one.x + SIDE / 2, one.y + SIDE / 2 + 0.02, color]);
    if (one.corner !== null) words.corner.push([brief(one.corner), one.x + SIDE - 0.2, one.y + 0.18, one.lit ? "on-accent" : "kernel"]);
  }
  pen.textBaseline = "middle";
  for (const [size, all] of Object.entries(words)) {
    if (!all.length) continue;
    pen.font = `${size === "corner" ? 650 : 400} ${FONTS[size] * unit}px ${family}`;
    pen.textAlign = size === "tag" ? "left" : "center";
    for (const [text, x, y, color] of all) {
      pen.fillStyle = ink(color);
      pen.fillText(text, (x + EDGE) * unit, (y + EDGE) * unit);
    }
  }
}

/** The text of the number in a cell. */
export const textOf = ({ value }) => (value === null || value === undefined ? "" : brief(value));

/** A number that fits into a cell: below 1 four decimals, of which a trained layer's numbers have more. */
const brief = (value) => written(Math.abs(value) < 1 ? Number(value.toFixed(4)) : value);

/** "2, 3" for position 11 of rows of 4; in one dimension "11". */
export function position(index, size, dims) {
  return dims === 2 ? `${Math.floor(index / size)}, ${index % size}` : String(index);
}
