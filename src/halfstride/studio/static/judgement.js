// Is it any good? What the evaluation says of a run's model, beside simpler methods.

import { ask, find, html } from "./dom.js";

const grouped = (number) => number.toLocaleString("en", { maximumFractionDigits: 0 });
const error = (value) => (value === 0 || value >= 1e-4 ? String(Number(value.toPrecision(3))) : value.toExponential(1));
const decibels = (value) => value.toFixed(2);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function table(caption, heads, rows) {
  return html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": caption },
    html("table", { class: "figures" },
      html("caption", { text: caption }),
      html("thead", {}, html("tr", {}, ...heads.map((head) => html("th", { scope: "col", text: head })))),
      html("tbody", {}, ...rows.flatMap(({ name, cells, note }, place) => [
        html("tr", { class: place === 0 ? "own" : null },
          html("th", { scope: "row", text: name }), ...cells.map((cell) => html("td", { text: cell }))),
        note ? html("tr", { class: "note" }, html("td", { colspan: heads.length, text: note })) : null,
      ].filter(Boolean))),
    ),
  );
}

function methods({ rows, compared }) {
  const size = ({ numbers, bytes }) => (bytes !== null ? `${grouped(bytes)} bytes` : numbers ? `${grouped(numbers)} number${numbers === 1 ? "" : "s"}` : "–");
  return table(`On ${grouped(compared)} test images`, ["", "size", "MSE", "PSNR (dB)"],
    rows.map((row) => ({ name: row.name, cells: [size(row), error(row.mse), decibels(row.psnr)], note: row.note })));
}

function parts({ train, validation, test }) {
  const found = [["test", test], ["validation", validation], ["training", train]].filter(([, scores]) => scores);
  return table("This model on each part", ["", "images", "MSE", "PSNR (dB)", "SSIM"],
    found.map(([name, { images, mse, psnr, ssim }]) => ({
      name, cells: [grouped(images), error(mse), decibels(psnr), ssim === null ? "–" : ssim.toFixed(3)],
    })));
}

function facts({ numbers, used, output_range: [low, high], output_variance: own, data_variance: images, neighbours }) {
  const told = [
    ["latent numbers in use", `${grouped(used)} of ${grouped(numbers)}`],
    ["outputs", `${low.toFixed(2)} to ${high.toFixed(2)}`],
    ["their variance over images", images > 0 ? `${Math.round((100 * own) / images)} % of the images' own` : "–"],
  ];
  if (neighbours) {
    told.push(["class by nearest codes", `${percent(neighbours.latent)} right (by PCA ${percent(neighbours.pca)}), ${grouped(neighbours.test)} test images`]);
  }
  return html("dl", { class: "facts" }, ...told.flatMap(([name, text]) => [html("dt", { text: name }), html("dd", { text })]));
}

/** A sentence whose options of a command do not break at their hyphens. */
const unbroken = (text) => text.split(/(--[a-z-]+)/).map((part) => (part.startsWith("--") ? html("span", { class: "option", text: part }) : part));

/** Ask for a run's evaluation and show it, or why it cannot be read; without one there is no panel. */
export async function showJudgement(address) {
  let shown;
  try {
    const told = await ask(address);
    shown = told && [
      html("p", { class: `sentence ${told.verdict.kind === "good" ? "good" : "doubt"}` },
        html("span", { "aria-hidden": "true", text: told.verdict.kind === "good" ? "✓" : "△" }), html("strong", {}, ...unbroken(told.verdict.sentence))),
      told.outdated ? html("p", { class: "quiet small", text: "This was said before the training went on." }) : null,
      html("div", { class: "judged" }, methods(told), html("div", {}, parts(told), facts(told))),
    ].filter(Boolean);
  } catch (failure) {
    shown = [html("p", { class: "alarm", text: failure.message })];
  }
  find("#judgement").hidden = !shown;
  find("#judged").replaceChildren(...(shown ?? []));
}
