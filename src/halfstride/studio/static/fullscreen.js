// One view alone, as large as the screen, with the transport above it.

import { find, html, svg } from "./dom.js";
import { VIEWS } from "./shown.js";

const ICON = "M2 2h5v2H4v3H2zM9 2h5v5h-2V4H9zM2 9h2v3h3v2H2zM12 9h2v5H9v-2h3z";

let chosen = null; // the view that is alone
let latest = "scatter"; // the view that the key f shows
let before = null; // the element that had the focus
let leaving = false; // whether the page itself has asked the browser to leave the full screen

/** The view that the key f shows from now on, unless the pointer or the focus is in another. */
export const prefer = (name) => (latest = name);

/** Show a view alone, or null for all of them. */
function show(name) {
  if (chosen === name) return;
  chosen = name;
  if (name) latest = name;
  const alone = name !== null;
  find(".bench").classList.toggle("alone", alone);
  find(".head").inert = alone;
  for (const panel of document.querySelectorAll("[data-view]")) panel.classList.toggle("chosen", panel.dataset.view === name);
  for (const button of document.querySelectorAll(".screen")) label(button);
  fillScreen();
  if (alone) {
    before = document.activeElement;
    find("#play").focus(); // so that Space plays
  } else before.focus({ preventScroll: true });
}

/** Ask the browser for the full screen, or to leave it, as it should be now; it answers later, by `fullscreenchange`. */
function fillScreen() {
  // Not every browser allows it, such as in a frame: then the view fills the window.
  if (chosen !== null && !document.fullscreenElement) document.documentElement.requestFullscreen?.().catch(() => {});
  if (chosen === null && document.fullscreenElement) {
    leaving = true;
    document.exitFullscreen().catch(() => (leaving = false));
  }
}

function label(button) {
  const text = chosen === null ? "Full screen" : "Leave the full screen";
  button.setAttribute("aria-label", text);
  button.title = `${text} (${chosen === null ? "f" : "Esc"})`;
}

/** Add the buttons, and listen to the keys f and Escape. */
export function allowFullScreen() {
  for (const name of VIEWS) {
    const button = html("button", { type: "button", class: "screen" }, svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICON })));
    label(button);
    button.addEventListener("click", () => show(chosen === null ? name : null));
    find(`#${name} > header`).append(button);
    for (const event of ["pointerenter", "focusin"]) {
      for (const panel of document.querySelectorAll(`[data-view="${name}"]`)) panel.addEventListener(event, () => (latest = name));
    }
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(".editor, select, input:not([type=radio], [type=range], [type=checkbox])")) return;
    if (event.key === "f") show(chosen === null ? latest : null);
    else if (event.key === "Escape" && chosen !== null) show(null);
  });
  document.addEventListener("fullscreenchange", () => {
    // The browser itself answers to Escape as well; by its answer to the page another view may have been chosen.
    if (!document.fullscreenElement && !leaving) show(null);
    leaving = false;
    fillScreen();
  });
}
