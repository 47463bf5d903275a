// The errors of a run over its steps, as a chart and in numbers.

import { frame, range } from "./chart.js";
import { facts, find, grouped, svg, written } from "./dom.js";

const CURVES = ["train", "validation", "test"];
const MARKED = 40; // scorings up to which each has a mark
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [230, 160, 54, 6, 8, 22];

const fixed = (value, digits, unit = "") => (value === null || value === undefined ? "–" : `${value.toFixed(digits)}${unit}`);

/** Show train, validation and test error; `kept` is the step of the model that is kept. */
export function showLoss(metrics, kept) {
  const values = metrics.flatMap((one) => CURVES.map((which) => one[`${which}_mse`])).filter((value) => value > 0);
  if (!values.length) return find("#loss").replaceChildren();
  const best = metrics.find((one) => one.step === kept) ?? metrics.at(-1);
  find("#loss").replaceChildren(chart(metrics, best, values), facts([
      ["kept", `step ${grouped(best.step)}`],
      ["train MSE", fixed(best.train_mse, 5), "train"],
      ["validation MSE", fixed(best.validation_mse, 5), "validation"],
      ["test MSE", fixed(best.test_mse, 5), "test"],
      ["test PSNR", fixed(best.test_psnr, 2, " dB")],
      ["test SSIM", fixed(best.test_ssim, 3)],
  ].map(([name, value, curve]) => [name, value, curve && svg("svg", { class: "key", viewBox: "0 0 18 4", "aria-hidden": "true" }, svg("path", { class: curve, d: "M0 2H18" }))])));
}

function chart(metrics, best, values) {
  const [low, high] = range(values);
  const last = Math.max(1, metrics.at(-1).step);
  const { drawing, y, across } = frame({ width: WIDTH, height: HEIGHT, edges: [TOP, RIGHT, BOTTOM, LEFT], low, high,
    name: `Mean squared error over ${grouped(last)} steps: ${written(best.test_mse ?? NaN)} on test images at the kept step ${grouped(best.step)}` });
  const x = (step) => across(step / last);
  drawing.append(
    svg("text", { x: LEFT, y: HEIGHT - 6, text: "step 0" }),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end", text: grouped(last) }),
    svg("line", { class: "kept", x1: x(best.step), x2: x(best.step), y1: TOP, y2: HEIGHT - BOTTOM }),
  );
  for (const which of CURVES) {
    const points = metrics.filter((one) => one[`${which}_mse`] > 0).map((one) => [x(one.step), y(one[`${which}_mse`])]);
    if (!points.length) continue;
    drawing.append(svg("path", { class: which, d: `M${points.map((at) => at.join(" ")).join("L")}` }));
    if (points.length < MARKED) for (const [cx, cy] of points) drawing.append(svg("circle", { class: which, cx, cy, r: 2 }));
  }
  if (best.validation_mse > 0) drawing.append(svg("circle", { class: "kept", cx: x(best.step), cy: y(best.validation_mse), r: 4.5 }));
  return drawing;
}
