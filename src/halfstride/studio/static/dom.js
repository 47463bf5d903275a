// Creating elements, and requests to the server.

const SVG = "http://www.w3.org/2000/svg";

/** An address of the studio, such as "/api/runs", relative to the page: a proxy may have a prefix before all of them. */
export const local = (address) => address.replace(/^\//, "./");

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "href" || name === "src") {
      node.setAttribute(name, local(value));
      continue;
    }
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element: attributes, `on…` listeners, `text`, then children. */
export const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same in SVG. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const find = (selector, from = document) => from.querySelector(selector);

/** A number with at most four significant digits. */
export function written(value) {
  if (Number.isInteger(value)) return String(value).replace("-", "−");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

/** An integer with commas between thousands. */
export const grouped = (number) => number.toLocaleString("en", { maximumFractionDigits: 0 });

/** A list of names and values, optionally with a symbol before the name. */
export const facts = (entries) => html("dl", { class: "facts" },
  ...entries.flatMap(([name, value, symbol]) => [html("dt", {}, symbol, name), html("dd", { text: value })]));

/** A table that scrolls; each row is the row's name and its cells, or an element. */
export const table = (caption, heads, rows, look = "") =>
  html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": caption },
    html("table", { class: `figures ${look}` },
      html("caption", { text: caption }),
      html("thead", {}, html("tr", {}, ...heads.map((text) => html("th", { scope: "col", text })))),
      html("tbody", {}, ...rows.map((row) => (row instanceof Node ? row : html("tr", {},
        ...row.map((text, place) => (place ? html("td", { text }) : html("th", { scope: "row", text })))))))));

/** Count on an element how often it has been drawn, for tests and benchmarks. */
export const count = (node) => (node.dataset.frames = Number(node.dataset.frames ?? 0) + 1);

// A page that was exported as one file has the server's answers in it, and asks none.
const packed = find("#answers");
export const standalone = packed !== null;
const answers = standalone ? await unpack(packed.textContent) : {};

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

/** The query in the page's address, or that with which an exported page begins. */
export const query = () => new URLSearchParams(standalone ? packed.dataset.query : location.search);

/**
 * The server's answer; throws an Error with the server's message where it refuses. An exported page has it under its
 * address without the query, or under the name `packed`.
 */
export async function ask(address, { body, packed: name } = {}) {
  if (standalone) return answers[name ?? address.split("?")[0]];
  const options = {};
  if (body !== undefined) {
    options.method = "POST";
    options.body = body instanceof Blob ? body : JSON.stringify(body);
    options.headers = { "content-type": body instanceof Blob ? "application/octet-stream" : "application/json" };
  }
  let response;
  try {
    response = await fetch(local(address), options);
  } catch {
    throw new Error("The server does not answer: is halfstride studio still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 403 && answer.sources?.length) {
    await allow(address, answer.sources);
    return ask(address, { body });
  }
  if (!response.ok) throw new Error(answer.error ?? `The server answers ${response.status}.`);
  return answer;
}

const questions = new Map(); // the answers by sources, so that each is asked about once

/** Ask the person whether images outside the runs folder may be read; throws an Error where they may not. */
async function allow(address, sources) {
  const key = sources.join("\n");
  if (!questions.has(key)) questions.set(key, question(sources));
  if (!(await questions.get(key))) {
    throw new Error(`The images in ${sources.join(" and ")} were not read, as you chose: reload the page to be asked again.`);
  }
  await ask(`${/^\/api\/runs\/[^/]+/.exec(address)[0]}/allow`, { body: { sources } });
}

function question(sources) {
  const dialog = html("dialog", { class: "panel question", "aria-labelledby": "question" },
    html("h2", { id: "question", text: "Read these images?" }),
    html("p", { text: "This run says that its images are outside the runs folder:" }),
    html("ul", {}, ...sources.map((source) => html("li", {}, html("code", { text: source })))),
    html("p", { class: "quiet small", text: "A run that is not your own could name any folder of this machine. The images are shown on this page and go nowhere else." }),
    html("form", { method: "dialog", class: "row" }, html("button", { value: "no", text: "Do not read" }), html("button", { value: "yes", class: "primary", text: "Read them" })));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
  });
}

const PATIENCE = 500; // ms until work is said to go on

/**
 * While a promise is pending, say in a place what is being done and for how long; `look` asks how far it is, as
 * `{what, done, total}` or null. Returns what the promise gives.
 */
export async function working(place, words, promise, look = null) {
  const bar = html("progress", { "aria-label": words });
  const said = html("span", {});
  const node = html("p", { class: "working quiet small" }, bar, said);
  const began = performance.now();
  const tell = async () => {
    const now = await look?.().catch(() => null);
    if (now?.total) Object.assign(bar, { max: now.total, value: now.done });
    else bar.removeAttribute("value");
    const far = now ? `: ${now.what} ${grouped(now.done)}${now.total ? ` of ${grouped(now.total)}` : ""}` : "";
    said.textContent = `${words}${far} … ${Math.round((performance.now() - began) / 1000)} s`;
    if (!node.isConnected) place.prepend(node);
  };
  let timer = setTimeout(async function again() {
    if (timer !== null) await tell();
    if (timer !== null) timer = setTimeout(again, PATIENCE);
    else node.remove();
  }, PATIENCE);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    timer = null;
    node.remove();
  }
}

/**
 * Calls `work` with the newest value given and skips older ones, as a drag needs; at most `most` calls run at a time. With
 * two, the server computes one answer while the page shows the other. Returns a promise that all values given so far,
 * or newer ones in their place, are done.
 */
export function newestOnly(work, most = 1) {
  let waiting = null;
  let busy = 0;
  let done = Promise.resolve();
  async function run() {
    let failure = null;
    busy++;
    while (waiting) {
      const { value } = waiting;
      waiting = null;
      await work(value).catch((error) => (failure = error));
    }
    busy--;
    if (failure) throw failure;
  }
  return function give(value) {
    waiting = { value };
    if (busy < most) done = Promise.all([done.catch(() => {}), run()]).then(() => {});
    return done;
  };
}

/** Calls `changed` with the value of the radio button that is chosen; returns a function that chooses one. */
export function choice(container, changed) {
  container.addEventListener("change", (event) => changed(event.target.value));
  return (value) => {
    for (const radio of container.querySelectorAll("input")) radio.checked = radio.value === value;
  };
}

// Light, dark, or as the system is set: the same button on every page; the browser remembers the choice.
const themes = ["auto", "light", "dark"];
const button = find(".theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
function show(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  if (button) button.textContent = `Theme: ${theme}`;
}

/** "light" or "dark", as the page is now. */
export const shade = () => (theme === "auto" ? (dark.matches ? "dark" : "light") : theme);

/** Calls `changed` when the page turns light or dark. */
export function onShade(changed) {
  let before = shade();
  const look = () => {
    if (shade() === before) return;
    before = shade();
    changed();
  };
  dark.addEventListener("change", look);
  button?.addEventListener("click", look);
}
const begun = standalone ? packed.dataset.theme : localStorage.getItem("theme"); // an embedded page has no storage
let theme = themes.includes(begun) ? begun : "auto";
show(theme);
button?.addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  if (!standalone) localStorage.setItem("theme", theme);
  show(theme);
});
