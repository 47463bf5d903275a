// The sentences of the upsampling page: about the highlighted cell, and about each view.

import { html, written } from "./dom.js";

export const KINDS = { conv: "Convolution", transposed: "Transposed", resize: "Resize", subpixel: "Sub-pixel" };
export const WORDS = {
  emulated: {
    conv: "The kernel slides over the padded input by the stride.",
    transposed: "The same as a convolution of stride 1: the flipped kernel slides over the input with zeros between and around it.",
    resize: "Every input value is repeated by the scale factor, then the kernel slides over the result.",
    subpixel: "Each kernel slides over the input, and the results are interleaved to one output (pixel shuffle).",
  },
  phases: {
    conv: "Inputs with the same index modulo the stride are multiplied by the same taps.",
    transposed: "Outputs with the same index modulo the stride use the same taps: each phase is a small convolution of stride 1.",
    resize: "Taps that meet the same input value are summed beforehand: each phase is a small convolution of stride 1.",
    subpixel: "Each phase is a convolution of stride 1 with its own kernel.",
  },
  coverage: {
    output: "Number of products at each output.",
    input: "Number of products that use each input.",
  },
};

export const ink = (kind, text) => html("span", { class: `${kind}-ink`, text });
const bracketed = (value) => (value < 0 ? `(${written(value)})` : written(value));
const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** One line about the highlighted cell of a layer. */
export function say(shown, focus, done) {
  const { told } = shown;
  const spot = (kind, index) => shown.spot(kind, index);
  if (!focus) {
    return [
      ink("input", `${told.input.length} inputs`), ", ", ink("kernel", `${told.kernel.length} taps`), ", ",
      ink("output", `${told.output.length} outputs`), `: ${told.terms.product.length} products. `,
      done ? "Play, or step with the arrow keys." : "",
    ];
  }
  if (focus.kind === "output") {
    const terms = shown.touching("output", focus.index);
    const sum = terms.flatMap((place, at) => [
      at ? " + " : "",
      ink("input", bracketed(told.input[told.terms.i[place]])), " · ", ink("kernel", bracketed(told.kernel[told.terms.t[place]])),
    ]);
    const total = ink("output", written(told.output[focus.index]));
    return [ink("output", `output ${spot("output", focus.index)}`), " = ", ...(terms.length ? [...sum, " = "] : []), total];
  }
  if (focus.kind === "input") {
    const { i, contribution } = told.matrix;
    const landing = contribution.filter((_, place) => i[place] === focus.index);
    const value = ink("input", `input ${spot("input", focus.index)} = ${written(told.input[focus.index])}`);
    return [value, " times ", ink("kernel", "the kernel"), ` is added to ${counted(landing.length, "output")}: `, landing.map(written).join(", ")];
  }
  if (focus.kind === "kernel") {
    const terms = shown.touching("kernel", focus.index);
    return [ink("kernel", `kernel ${spot("kernel", focus.index)} = ${written(told.kernel[focus.index])}`),
      ` is part of ${counted(terms.length, "product")}.`];
  }
  if (focus.kind === "phase") {
    const phase = told.phases.kernels[focus.index];
    return [`Phase ${phase.remainder.join(", ")} has gain ${written(phase.gain)}: its output for a constant input of 1.`];
  }
  const [j, i] = focus.index.split(",").map(Number);
  const value = told.matrix.value.find((_, place) => told.matrix.j[place] === j && told.matrix.i[place] === i);
  return [`One unit of `, ink("input", `input ${spot("input", i)}`), ` adds ${written(value)} to `,
    ink("output", `output ${spot("output", j)}`), "."];
}

/** What the coverage shows, with a mark before it. */
export function verdict({ verdict: text, even, checkerboard }) {
  const end = text.search(/[:,]/);
  const mark = even && !checkerboard ? "✓ " : "⚠ ";
  return [html("strong", { text: mark + text.slice(0, end) }), text.slice(end)];
}

/** What the matrix is: a layer's, or its transpose. */
export function matrixWords({ output, input, matrix, layer }, turned) {
  const share = Math.round((100 * matrix.value.length) / (output.length * input.length));
  if (!turned) return `The layer as a matrix of ${output.length} × ${input.length}; ${share} % of its entries are used.`;
  const back = layer.form === "conv" ? "transposed convolution" : "strided convolution";
  return `The transposed matrix, ${input.length} × ${output.length}: a ${back} with the same kernel, from the output's size to the input's.`;
}

/** Where the network page took the numbers from. */
export function originWords({ run, image, from, channels, corner }, input_size) {
  const [source, target] = channels.split(",");
  const [top, left] = corner.split(",").map(Number);
  const end = Number(input_size) - 1;
  return [`Layer ${from} of `, html("a", { href: `/network?${new URLSearchParams({ run, image })}`, text: run }), `: `,
    ink("input", `rows ${top}–${top + end}, columns ${left}–${left + end} of its input channel ${source}`),
    ` for image ${image}, and `, ink("kernel", `the kernel from it to output channel ${target}`),
    ". The layer adds the other input channels and a bias, and at the edges of this patch it sees the input around it."];
}
