// Saving the layer: animations, pictures of a view, and the page as one file; copying code and address.

import { besideQuery, wholeQuery } from "./address.js";
import { find, html, local, working } from "./dom.js";

/** The links of all exports, for what is shown now. */
export function showExports(state) {
  const shade = find("#shade input:checked").value;
  for (const link of document.querySelectorAll("#export a")) {
    const query = wholeQuery(state);
    query.set("format", link.dataset.format);
    query.set("view", state.by === "inputs" ? "scatter" : "sliding");
    query.set("theme", shade);
    link.href = local(`/api/layer/animation?${query}`);
  }
  for (const link of document.querySelectorAll("#export-picture a")) {
    const [, beside, view] = /^(second-)?(.+)$/.exec(find("#picture-view").value);
    const query = beside ? besideQuery(state) : wholeQuery(state);
    query.set("format", link.dataset.format);
    query.set("view", view);
    query.set("by", state.by);
    if (state.step !== null) query.set("step", state.step);
    if (state.turned === "yes") query.set("turned", "yes");
    query.set("theme", shade);
    link.href = local(`/api/layer/picture?${query}`);
  }
  const page = wholeQuery(state);
  page.set("by", state.by);
  page.set("theme", find("#html-theme input:checked").value);
  page.set("speed", state.speed);
  if (state.loop) page.set("loop", "yes");
  if (state.beside !== "none") for (const name of ["beside", "beside_kernel", "beside_padding"]) page.set(name, state[name]);
  find("#export-html").href = local(`/api/layer/page?${page}`);
  find("#export-by").textContent = state.by === "inputs" ? "by input" : "by output";
  find("#export-step").textContent = state.step === null ? "with all steps done" : `at step ${state.step + 1}`;
}

/** Take the links away: there is nothing to save. */
export function hideExports() {
  for (const link of document.querySelectorAll("#export a, #export-picture a, #export-html")) link.removeAttribute("href");
}

export function allowExports() {
  for (const link of document.querySelectorAll("#export a, #export-picture a")) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      if (!link.href || link.ariaBusy === "true") return;
      link.ariaBusy = "true";
      find("#export-error").hidden = true;
      try {
        await working(find("#export-work"), "Drawing", save(link.href));
      } catch (error) {
        find("#export-error").textContent = error.message;
        find("#export-error").hidden = false;
      }
      link.ariaBusy = "false";
    });
  }
  find("#share").addEventListener("click", (event) => copy(location.href, event.currentTarget));
  find("#copy").addEventListener("click", (event) => copy(find("#code").textContent, event.currentTarget));
}

/** Save what an address answers as a file, under the name that the server gives it. */
async function save(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `The server answers ${response.status}.`);
  const [, name] = /filename="([^"]+)"/.exec(response.headers.get("content-disposition"));
  const file = URL.createObjectURL(await response.blob());
  html("a", { href: file, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(file), 60_000);
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = before), 1400);
}
