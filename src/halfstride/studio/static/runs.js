// For pages with runs and pictures: the table of runs, and the upload of a picture.

import { ask, find, grouped, html } from "./dom.js";

const MANY = 8; // runs from which on they can be filtered
const POLL = 4000;
const LARGEST = 25 * 2 ** 20; // bytes of a picture, as in guard.py

/** The steps done of those asked for. */
export const steps = (done, asked) => (done === asked ? `${grouped(done)} steps` : `step ${grouped(done)} of ${grouped(asked)}`);

const rate = (value) => (value === null ? "–" : String(Number(value.toPrecision(2))));
export const small = (value) => (value === null ? "–" : value.toPrecision(3).replace(/e-0?/, "e−"));
const day = (seconds) => {
  const date = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
};
export const latent = (shape) => (shape === null ? "–" : shape.length === 1 ? `vector ${shape[0]}` : `map ${shape.join("×")}`);
const product = (shape) => shape?.reduce((all, one) => all * one, 1) ?? null;

/** The columns: name, text, and the value by which rows are sorted, where that is not the text. */
const COLUMNS = [
  { name: "name", of: "run", text: (run) => run.name, value: (run) => run.name },
  { name: "latent", text: (run) => latent(run.latent), value: (run) => product(run.latent) },
  { name: "compression", text: (run) => (run.compression === null ? "–" : `${Number(run.compression.toPrecision(3))} : 1`), value: (run) => run.compression },
  { name: "loss", text: (run) => run.loss ?? "–", value: (run) => run.loss },
  { name: "learning rate", text: (run) => rate(run.learning_rate), value: (run) => run.learning_rate },
  { name: "steps", text: ({ steps_done: done, steps_asked: asked }) => (asked === null ? "–" : done === asked ? grouped(done) : `${grouped(done)} of ${grouped(asked)}`), value: (run) => run.steps_done },
  { name: "validation MSE", text: (run) => small(run.validation_mse), value: (run) => run.validation_mse },
  { name: "test MSE", text: (run) => small(run.test_mse), value: (run) => run.test_mse },
  { name: "changed", text: (run) => (run.changed === null ? "–" : day(run.changed)), value: (run) => run.changed },
];

// How the table is sorted and filtered stays from one run to the next, which is another page.
const kept = JSON.parse(sessionStorage.getItem("runs") ?? "null");
const view = { by: "name", down: false, filter: "", ...kept };
const keep = () => sessionStorage.setItem("runs", JSON.stringify(view));

let all = [];
let current = null;
let drawn = null;
let choosing = null; // the names that are chosen, and what is called when these change

/** Let several runs be chosen in the table, which otherwise opens one; calls `changed` after `names`, a set, has. */
export function chooseRuns(names, changed) {
  choosing = { names, changed };
}

/** Show the runs, with `open` as the current one, also in the links to other pages; returns the runs. */
export async function listRuns(open) {
  all = await ask("/api/runs");
  current = open;
  for (const link of document.querySelectorAll(".head nav [data-run]")) link.search = open ? `run=${encodeURIComponent(open)}` : "";
  showRuns();
  return all;
}

/** Begin a page about one run: its name, or null where there is none, which the page then says until one comes. */
export async function beginWithRun() {
  const runs = await listRuns();
  find("#empty").hidden = runs.length > 0;
  followRuns(runs.length ? undefined : () => location.reload());
  if (!runs.length) return null;
  find("#lab").hidden = false;
  return chosen(runs);
}

/** Look for new, changed and deleted runs while the page is open; calls `changed` with all of them. */
export function followRuns(changed = () => {}) {
  setTimeout(async function look() {
    try {
      if (!document.hidden) {
        const before = JSON.stringify(all);
        await listRuns(current);
        if (JSON.stringify(all) !== before) changed(all);
      }
    } catch {
      // the page's own requests say that the server does not answer
    }
    setTimeout(look, POLL);
  }, POLL);
}

function showRuns() {
  const now = JSON.stringify([all, current]);
  if (now === drawn) return; // so that nothing is taken from under a pointer
  drawn = now;
  const panel = find(".runs");
  if (!panel) return; // a page without the table
  if (!find("table", panel)) make(panel);
  find(".filter", panel).hidden = all.length < MANY && !view.filter;
  fill(panel);
}

function make(panel) {
  const filter = html("input", { type: "search", "aria-label": "Filter the runs", placeholder: "Filter: name, map, mse …" });
  filter.value = view.filter;
  filter.addEventListener("input", () => {
    view.filter = filter.value;
    keep();
    fill(panel);
  });
  const heads = COLUMNS.map((column) => {
    const button = html("button", { type: "button", text: column.of ?? column.name });
    button.addEventListener("click", () => {
      Object.assign(view, view.by === column.name ? { down: !view.down } : { by: column.name, down: column.name === "changed" });
      keep();
      fill(panel);
    });
    return html("th", { scope: "col", role: "columnheader", "data-column": column.name }, button);
  });
  panel.replaceChildren(
    html("header", {}, html("h2", { id: "runs-title", text: "Runs" }), ...(choosing ? choosers(panel) : []),
      html("span", { class: "filter" }, filter), html("span", { class: "quiet small", id: "runs-count", role: "status" })),
    html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table of runs" },
      // the roles stay where a narrow screen shows no columns
      html("table", { class: "figures", role: "table" }, html("thead", { role: "rowgroup" }, html("tr", { role: "row" }, ...heads)), html("tbody", { id: "runs", role: "rowgroup" }))));
}

/** Buttons that choose all runs that the filter leaves, and none. */
function choosers(panel) {
  const make = (text, change) => html("button", { type: "button", text, onclick: () => {
    change(choosing.names);
    fill(panel);
    choosing.changed();
  } });
  const shown = () => all.filter((run) => matches(run) && !run.error);
  return [html("span", { class: "row" },
    make("Choose all below", (names) => shown().forEach((run) => names.add(run.name))), make("None", (names) => names.clear()))];
}

/** Whether each word of the filter is in a row. */
function matches(run) {
  const text = [...COLUMNS.map((column) => column.text(run)), run.error ?? ""].join(" ").toLowerCase();
  return view.filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

const order = new Intl.Collator(undefined, { numeric: true });

function sorted(runs) {
  const { value } = COLUMNS.find((column) => column.name === view.by) ?? COLUMNS[0];
  const compare = (one, other) => (typeof one === "string" ? order.compare(one, other) : one - other);
  return [...runs].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
    return (view.down ? -1 : 1) * compare(a, b) || order.compare(one.name, other.name);
  });
}

function fill(panel) {
  const shown = sorted(all.filter(matches));
  for (const head of panel.querySelectorAll("th[data-column]")) {
    const own = head.dataset.column === view.by;
    if (own) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const key = (node) => node?.href ?? node?.value;
  const focused = key(document.activeElement.closest("#runs :is(a, input)"));
  const first = !find("#runs").childElementCount;
  find("#runs").replaceChildren(...shown.flatMap(rows));
  find("#runs-count").textContent = shown.length === all.length ? grouped(all.length) : `${grouped(shown.length)} of ${grouped(all.length)}`;
  if (focused) [...document.querySelectorAll("#runs :is(a, input)")].find((one) => key(one) === focused)?.focus();
  const row = find("#runs :is([aria-current], :checked)")?.closest("tr");
  if (first && row) find(".scroll", panel).scrollTop = row.offsetTop - find("thead", panel).offsetHeight;
}

/** A run's row; one that cannot be opened has a second one that says why. */
function rows(run) {
  const link = choosing ? box(run) : html("a", { href: `?run=${encodeURIComponent(run.name)}`, "aria-current": run.name === current ? "page" : null, text: run.name });
  const cells = COLUMNS.slice(1).map((column) => html("td", { role: "cell", "data-label": column.name, text: column.text(run) }));
  const row = html("tr", { role: "row" }, html("th", { scope: "row", role: "rowheader", class: "name" }, link), ...cells);
  if (!run.error) return [row];
  return [row, html("tr", { class: "why", role: "row" }, html("td", { role: "cell", colspan: COLUMNS.length }, html("span", { "aria-hidden": "true", text: "⚠ " }), `Cannot be opened. ${run.error}`))];
}

function box(run) {
  const input = html("input", { type: "checkbox", value: run.name });
  input.checked = choosing.names.has(run.name);
  input.addEventListener("change", () => {
    choosing.names[input.checked ? "add" : "delete"](run.name);
    choosing.changed();
  });
  return html("label", {}, input, html("span", { text: run.name }));
}

/** The run that the address names, or else the first that can be opened. */
export const chosen = (runs) =>
  new URLSearchParams(location.search).get("run") ?? (runs.find((one) => !one.error) ?? runs[0])?.name;

/** Calls `take` with a picture that is chosen, or dropped anywhere on the page, and `refuse` with why one is not taken. */
export function onPicture(take, refuse) {
  const look = (file) => {
    if (file.size <= LARGEST) take(file);
    else refuse(new Error(`The file has ${grouped(file.size)} bytes: at most ${grouped(LARGEST)} are taken.`));
  };
  find("#file").addEventListener("change", (event) => {
    if (event.target.files[0]) look(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      find("#drop").classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) look(file);
    });
  }
}
