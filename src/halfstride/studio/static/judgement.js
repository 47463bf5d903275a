// The evaluation of a run's model, beside simpler methods.

import { ask, facts, find, grouped, html, table } from "./dom.js";

const error = (value) => (value === 0 || value >= 1e-4 ? String(Number(value.toPrecision(3))) : value.toExponential(1));
const decibels = (value) => value.toFixed(2);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function methods({ rows, compared }) {
  const heads = ["", "size", "MSE", "PSNR (dB)"];
  const size = ({ numbers, bytes }) => (bytes !== null ? `${grouped(bytes)} bytes` : numbers ? `${grouped(numbers)} number${numbers === 1 ? "" : "s"}` : "–");
  const note = (text) => html("tr", { class: "note" }, html("td", { colspan: heads.length, text }));
  return table(`On ${grouped(compared)} test images`, heads, rows.flatMap((row) => [
    [row.name, size(row), error(row.mse), decibels(row.psnr)], ...(row.note ? [note(row.note)] : []),
  ]));
}

function parts({ train, validation, test }) {
  const found = [["test", test], ["validation", validation], ["training", train]].filter(([, scores]) => scores);
  return table("This model on each part", ["", "images", "MSE", "PSNR (dB)", "SSIM"],
    found.map(([name, { images, mse, psnr, ssim }]) => [
      name, grouped(images), error(mse), decibels(psnr), ssim === null ? "–" : ssim.toFixed(3),
    ]));
}

function measures({ numbers, used, output_range: [low, high], output_variance: own, data_variance: images, neighbours }) {
  const told = [
    ["latent numbers in use", `${grouped(used)} of ${grouped(numbers)}`],
    ["output range", `${low.toFixed(2)} to ${high.toFixed(2)}`],
    ["output variance", images > 0 ? `${Math.round((100 * own) / images)} % of the images' variance` : "–"],
  ];
  if (neighbours) {
    told.push(["class of the nearest codes", `${percent(neighbours.latent)} right (by PCA ${percent(neighbours.pca)}), ${grouped(neighbours.test)} test images`]);
  }
  return facts(told);
}

/** A sentence with command-line options that are not broken at their hyphens. */
const unbroken = (text) => text.split(/(--[a-z-]+)/).map((part) => (part.startsWith("--") ? html("span", { class: "option", text: part }) : part));

/** Show a run's evaluation, or why it cannot be read; without one the panel is hidden. */
export async function showJudgement(address) {
  let shown;
  try {
    const told = await ask(address);
    shown = told && [
      html("p", { class: `sentence ${told.verdict.kind === "good" ? "good" : "doubt"}` },
        html("span", { "aria-hidden": "true", text: told.verdict.kind === "good" ? "✓" : "△" }), html("strong", {}, ...unbroken(told.verdict.sentence))),
      told.outdated ? html("p", { class: "quiet small", text: "The training has continued since this evaluation." }) : null,
      html("div", { class: "judged" }, methods(told), html("div", {}, parts(told), measures(told))),
    ].filter(Boolean);
  } catch (failure) {
    shown = [html("p", { class: "alarm", text: failure.message })];
  }
  find("#judgement").hidden = !shown;
  find("#judged").replaceChildren(...(shown ?? []));
}
