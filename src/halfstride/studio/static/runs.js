// For pages with runs and pictures: the list of runs, and the upload of a picture.

import { ask, find, grouped, html } from "./dom.js";

/** The steps done of those asked for. */
export const steps = (done, asked) => (done === asked ? `${grouped(done)} steps` : `step ${grouped(done)} of ${grouped(asked)}`);

/** Show the runs, with `open` as the current one, also in the links to other pages; returns the runs. */
export async function listRuns(open) {
  const runs = await ask("/api/runs");
  for (const link of document.querySelectorAll(".head nav [data-run]")) link.search = open ? `run=${encodeURIComponent(open)}` : "";
  const focused = document.activeElement.closest("#runs a")?.href;
  find("#runs").replaceChildren(
    ...runs.map(({ name, steps_done: done, steps_asked: asked, test_mse: mse, error }) =>
      html("li", {},
        html("a", { href: `?run=${encodeURIComponent(name)}`, "aria-current": name === open ? "page" : null, title: error },
          html("span", { class: "name", text: name }),
          html("span", { class: "numbers", text: error ? "damaged" : steps(done, asked) }),
          html("span", { class: "numbers", text: mse === null ? "" : `test MSE ${mse.toFixed(4)}` }),
        ),
      ),
    ),
  );
  if (focused) [...document.querySelectorAll("#runs a")].find((link) => link.href === focused)?.focus();
  return runs;
}

/** The run that the address names, or else the first that can be opened. */
export const chosen = (runs) =>
  new URLSearchParams(location.search).get("run") ?? (runs.find((one) => !one.error) ?? runs[0])?.name;

/** Calls `take` with a picture that is chosen, or dropped anywhere on the page. */
export function onPicture(take) {
  find("#file").addEventListener("change", (event) => {
    if (event.target.files[0]) take(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      find("#drop").classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) take(file);
    });
  }
}
