// Images that are chosen in the latent plane: one with its neighbours, and several in a table that can be saved.

import { ask, count, find, grouped, html, newestOnly, table } from "./dom.js";
import { picture } from "./paint.js";

const SHOWN = 500; // rows of the table; the file has all

/** Show an image chosen in the plane, as `figure` draws it, and those with the nearest codes; `pick` chooses one of these. */
export const makePicked = (of, figure, pick, refuse) => newestOnly(async (index) => {
  const place = find("#picked");
  try {
    const [[own], near] = await Promise.all([ask(of(`/images?start=${index}&count=1`)), ask(of(`/neighbours?index=${index}`))]);
    const focused = place.contains(document.activeElement);
    place.replaceChildren(
      html("div", {}, html("h3", { class: "small", tabindex: -1, text: `Image ${own.index}` }), figure(own)),
      html("div", {}, html("h3", { class: "small", text: "Nearest codes" }),
        html("div", { class: "near", role: "group", "aria-label": "Images with the nearest codes" }, ...near.map((one) =>
          html("button", { type: "button", "data-index": one.index, "aria-label": `Image ${one.index}${one.label === null ? "" : `, ${one.label}`}, distance ${one.distance.toPrecision(3)}`, onclick: () => pick(one.index) },
            picture(one.image), html("span", { class: "small quiet", text: `${one.label === null ? "" : `${one.label} · `}${one.distance.toPrecision(3)}` }))))));
    place.hidden = false;
    if (focused) find("h3", place).focus();
    count(place);
  } catch (error) {
    refuse(error);
  }
});

/** One field of a line of a file: quoted, and so that no program takes it for a formula. */
const field = (value) => `"${String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;

/** The selection as a file of comma-separated values. */
const csv = (rows) => ["index,name,class,mse", ...rows.map((row) => [row.index, field(row.name), field(row.label), row.mse].join(","))].join("\r\n") + "\r\n";

function save(run, rows) {
  const address = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
  html("a", { href: address, download: `${run}-selection.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address));
}

/** Show the images of a set of indices in a table, largest error first; `rows` gives those of all images, `clear` empties the set. */
export const makeSelection = (run, rows, pick, clear, refuse) => newestOnly(async (indices) => {
  const place = find("#selection");
  place.hidden = !indices.size;
  if (!indices.size) return place.replaceChildren();
  try {
    const all = await rows();
    const found = [...indices].filter((index) => index < all.length).map((index) => all[index]).sort((one, other) => other.mse - one.mse);
    const row = ({ index, name, label, mse }) => html("tr", {},
      html("th", { scope: "row" }, html("button", { type: "button", class: "plain", text: index, "aria-label": `Show image ${index}`, onclick: () => pick(index) })),
      html("td", { text: name ?? "–" }), html("td", { text: label ?? "–" }), html("td", { text: mse.toFixed(5) }));
    const shown = found.slice(0, SHOWN);
    place.replaceChildren(
      html("div", { class: "row" }, html("h3", { class: "small", role: "status", text: `${grouped(found.length)} image${found.length === 1 ? "" : "s"} selected` }),
        html("button", { type: "button", text: "Save as CSV", onclick: () => save(run(), found) }), html("button", { type: "button", text: "Clear", onclick: clear })),
      table("The selected images, largest error first", ["index", "name", "class", "MSE"], shown.map(row), "selected"),
      shown.length < found.length ? html("p", { class: "quiet small", text: `The first ${grouped(SHOWN)} are shown; the file has all.` }) : "");
    count(place);
  } catch (error) {
    refuse(error);
  }
});
