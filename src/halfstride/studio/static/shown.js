// One layer as it is shown: the server's answer, its views, and what is highlighted in them at a step.

import { position as at, Sheet } from "./cells.js";
import { find } from "./dom.js";
import { tables } from "./tables.js";
import * as views from "./views.js";

export const VIEWS = ["scatter", "emulated", "phases", "matrix", "coverage"];

export class Shown {
  /** `prefix` stands before the `id` of each of its views. */
  constructor(prefix) {
    this.prefix = prefix;
    this.told = null;
    this.related = null;
    this.sheets = Object.fromEntries(VIEWS.map((name) => [name, new Sheet(find(".drawing", this.panel(name)))]));
  }

  panel(name) {
    return find(`#${this.prefix}${name}`);
  }

  /** Take the server's answer, and find the products of every cell, once for every answer. */
  take(told) {
    this.told = told;
    this.related = { input: new Map(), kernel: new Map(), output: new Map() };
    for (const [kind, column] of [["input", told.terms.i], ["kernel", told.terms.t], ["output", told.terms.j]]) {
      column.forEach((index, place) => {
        if (!this.related[kind].has(index)) this.related[kind].set(index, []);
        this.related[kind].get(index).push(place);
      });
    }
  }

  clear() {
    this.told = null;
    for (const sheet of Object.values(this.sheets)) sheet.clear();
  }

  /** The products of a cell: their places in the columns of `told.terms`. */
  touching(kind, index) {
    return this.related[kind].get(index) ?? [];
  }

  outputsOf(input) {
    return this.touching("input", input).map((place) => this.told.terms.j[place]);
  }

  steps(by) {
    return by === "inputs" ? this.told.input.length : this.told.output.length;
  }

  /** The cell under the pointer, if it shows a number. */
  at(event) {
    const panel = event.target.closest(".drawing")?.parentElement;
    const name = panel && VIEWS.find((one) => this.panel(one) === panel);
    const found = name ? this.sheets[name].at(event) : null;
    return found && { of: this, kind: found.kind, index: found.index, editable: found.editable };
  }

  show(name, narrow, turned) {
    this.sheets[name].show(views[name](this.told, narrow, turned));
  }

  /** What is shown at a step of both layers; null for all. A focus on the input belongs to both. */
  moment(by, step, focus) {
    const own = this.steps(by);
    const done = step === null || step >= own;
    const cursor = done ? own - 1 : step;
    const stepped = done ? null : { kind: by === "inputs" ? "input" : "output", index: cursor };
    const here = focus && (focus.of === this || focus.kind === "input") ? focus : stepped;
    const reached = done ? null : this.reachedBy(by, cursor);
    const touched = new Set(here?.kind === "input" ? this.outputsOf(here.index) : []);
    return { by, done, cursor, focus: here, reached, touched, lit: new Set(here ? this.lit(here) : []) };
  }

  paint(now, names) {
    for (const name of names) this.sheets[name].paint(now);
  }

  /** Write the numbers of the views as tables, for those who do not see them. */
  tell(turned) {
    for (const name of VIEWS) this.sheets[name].tell(tables(name, this.told, this.sheets[name].drawing.cells, turned));
  }

  /** Outputs with at least one product after this step. */
  reachedBy(by, cursor) {
    const first = [...Array(cursor + 1).keys()];
    return new Set(by === "outputs" ? first : first.flatMap((input) => this.outputsOf(input)));
  }

  /** The keys of all cells that are highlighted with a cell. */
  lit(focus) {
    if (focus.kind === "phase") {
      const { kernels, side } = this.told.phases;
      return kernels[focus.index].positions.map((position) => `${side} ${position}`);
    }
    const { i, t, j } = this.told.terms;
    if (focus.kind === "entry") {
      const [row, column] = focus.index.split(",").map(Number);
      const taps = this.touching("output", row).filter((place) => i[place] === column);
      return [`entry ${focus.index}`, `input ${column}`, `output ${row}`, ...taps.map((place) => `kernel ${t[place]}`)];
    }
    const keys = [`${focus.kind} ${focus.index}`];
    for (const place of this.touching(focus.kind, focus.index)) {
      keys.push(`entry ${j[place]},${i[place]}`);
      if (focus.kind !== "input") keys.push(`input ${i[place]}`);
      if (focus.kind !== "kernel") keys.push(`kernel ${t[place]}`);
      if (focus.kind === "kernel") keys.push(`output ${j[place]}`);
    }
    return keys;
  }

  /** Where a cell is, as "[row, column]". */
  spot(kind, index) {
    const { dims, kernel_size: k, input_size: n } = this.told.layer;
    const size = kind === "input" ? n : kind === "output" ? this.told.output_size : k;
    if (kind === "kernel" && this.told.kernels > 1) {
      const taps = k ** dims;
      return `[${Math.floor(index / taps)}: ${at(index % taps, k, dims)}]`;
    }
    return `[${at(index, size, dims)}]`;
  }
}
