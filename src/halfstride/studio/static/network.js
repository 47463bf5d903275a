// The network page: an image on its way through a run's model, layer by layer.

import { ask, count, facts, find, grouped, html, newestOnly } from "./dom.js";
import { greyMap, picture } from "./paint.js";
import { chosen, listRuns } from "./runs.js";

const PAGE = 12;
const PARTS = { image: "Image", encoder: "Encoder", code: "Code", decoder: "Decoder", reconstruction: "Image" };

const asked = new URLSearchParams(location.search).get("image") ?? "";
let run = null; // its name
let image = /^\d{1,6}$/.test(asked) ? Number(asked) : 0;
let first = image - (image % PAGE);
let total = 0;

const of = (rest) => `/api/runs/${encodeURIComponent(run)}${rest}`;

const failures = new Map(); // messages, by what has failed

function fail(what, error) {
  failures.set(what, error.message);
  showFailures();
}

function showFailures() {
  find("#error").textContent = [...new Set(failures.values())].join(" ");
  find("#error").hidden = failures.size === 0;
  find("#lab").classList.toggle("without-network", failures.size > 0 && !find("#strip").childElementCount);
}

/** Do something that may fail; its next success takes its message back, and no other. */
const attempt = (work) => newestOnly(async () => {
  try {
    await work();
    failures.delete(work);
    showFailures();
  } catch (error) {
    fail(work, error);
  }
});

// The strip --------------------------------------------------------------------------------------------------------

const showNetwork = attempt(async () => {
  const wanted = image;
  find("#strip").ariaBusy = "true";
  const { steps } = await ask(of(`/network?index=${wanted}`)).finally(() => (find("#strip").ariaBusy = "false"));
  const small = steps[0].picture;
  find("#strip").replaceChildren(...steps.map((step, at) => card(step, steps[at - 1], small)));
  showTotals(steps);
  count(find("#strip"));
});

function card(step, before, small) {
  const { part, name, kind, shape, macs, weights, field, links, closed } = step;
  const known = [
    ["shape", shape.join(" × ")],
    ["weights", weights && grouped(weights)],
    ["MACs", macs && grouped(macs)],
    ["computed", step.computed],
    ["field", field && `${field.join(" × ")} px`],
  ].filter(([, value]) => value);
  return html("li", { class: `step ${part}` },
    html("p", { class: "part small", text: before?.part === part ? "" : PARTS[part] }),
    html("h3", {}, links.length ? html("a", { href: `/?${links[0]}`, text: kind }) : kind),
    html("p", { class: "quiet small name" }, ...(name || "\u00a0").split(/(?<=\.)/).flatMap((part) => [part, html("wbr")])),
    html("p", { class: "small", text: step.arguments }),
    step.picture ? picture(step.picture, kind) : maps(step),
    html("div", { class: "known" }, facts(known), field ? seen(step, small) : null),
    closed ? html("p", { class: "quiet small", text: `Not in Upsampling: ${closed}` }) : null,
  );
}

/** The feature maps of a step; where it opens, each is a link, and the arrow keys move from one to the next. */
function maps({ maps: found, shape, links, kind }) {
  const bytes = atob(found.grey);
  if (!found.channels.length) return greyMap(found, bytes, 0, `${shape[0]} numbers, row by row`);
  const size = found.width * found.height;
  const some = found.channels.length < shape[0] ? `${found.channels.length} of ${shape[0]} maps` : `${shape[0]} maps`;
  const drawn = found.channels.map((channel, at) => {
    const canvas = greyMap(found, bytes, at * size);
    if (!links.length) return canvas;
    return html("a", { href: `/?${links[at]}`, title: `channel ${channel}`, tabindex: at ? -1 : 0, "aria-label": `Channel ${channel} of this ${kind.toLowerCase()}` }, canvas);
  });
  const named = links.length ? { role: "group", "aria-label": `${some}, each opens in Upsampling` } : { role: "img", "aria-label": some };
  return html("div", {}, html("div", { class: "maps", ...named }, ...drawn), html("p", { class: "quiet small", text: some }));
}

/** The image, with a frame around what a step sees of it. */
function seen({ seen: [top, left, bottom, right] }, small) {
  const frame = html("i");
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  Object.assign(frame.style, {
    top: percent(top, small.height), height: percent(bottom - top, small.height),
    left: percent(left, small.width), width: percent(right - left, small.width),
  });
  return html("div", { class: "seen" }, picture(small), frame);
}

find("#strip").addEventListener("keydown", (event) => {
  const all = [...(event.target.closest(".maps")?.querySelectorAll("a") ?? [])];
  const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 4, ArrowUp: -4 }[event.key];
  const next = all[all.indexOf(event.target) + move];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

function showTotals(steps) {
  const numbers = (part) => steps.find((step) => step.part === part).shape.reduce((one, other) => one * other, 1);
  const sum = (value, part) => steps.reduce((all, step) => all + (!part || step.part === part ? (step[value] ?? 0) : 0), 0);
  const shape = (part) => `${steps.find((step) => step.part === part).shape.join(" × ")} (${grouped(numbers(part))} numbers)`;
  find("#totals").replaceChildren(facts([
    ["image", shape("image")],
    ["code", shape("code")],
    ["compression", `${Number((numbers("image") / numbers("code")).toPrecision(3))} : 1`],
    ["weights", grouped(sum("weights"))],
    ["encoder", `${grouped(sum("macs", "encoder"))} MACs`],
    ["decoder", `${grouped(sum("macs", "decoder"))} MACs`],
  ]));
}

// The image --------------------------------------------------------------------------------------------------------

const showImages = attempt(async () => {
  const start = first;
  const found = await ask(of(`/images?start=${start}&count=${PAGE}`));
  find("#images").replaceChildren(...found.map((one) => {
    const name = one.label === null ? `Image ${one.index}` : `Image ${one.index}: ${one.label}`;
    const button = html("button", { type: "button", "data-index": one.index, "aria-label": name, title: name }, picture(one.input ?? one.original));
    button.addEventListener("click", () => {
      image = one.index;
      showChoice();
      showNetwork();
    });
    return button;
  }));
  find("#range").textContent = `${start + 1}–${start + found.length} of ${grouped(total)}`;
  find("#before").disabled = start === 0;
  find("#after").disabled = start + PAGE >= total;
  showChoice();
});

function showChoice() {
  for (const button of find("#images").children) button.setAttribute("aria-pressed", String(Number(button.dataset.index) === image));
  history.replaceState(null, "", `?${new URLSearchParams({ run, image })}`);
}

for (const [id, by] of [["#before", -PAGE], ["#after", PAGE]]) {
  find(id).addEventListener("click", () => {
    first = Math.max(0, first + by);
    showImages();
  });
}

// Beginning --------------------------------------------------------------------------------------------------------

async function begin() {
  const runs = await listRuns();
  if (!runs.length) {
    find("#empty").hidden = false;
    return;
  }
  run = chosen(runs);
  find("#lab").hidden = false;
  document.title = `Network of ${run} · halfstride studio`;
  await listRuns(run);
  total = (await ask(of("/latent"))).points.length;
  if (image >= total) image = first = 0;
  await Promise.all([showImages(), showNetwork()]);
}

begin().catch((error) => {
  find("#lab").hidden = false;
  fail(begin, error);
});
