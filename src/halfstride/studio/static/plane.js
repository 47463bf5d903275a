// The latent plane: test images as points, letters or thumbnails; a point that is decoded; zooming, and choosing images.

import { count, find, html, newestOnly, svg } from "./dom.js";
import { sheet } from "./paint.js";

const SIZE = { width: 640, height: 480, margin: 26, edge: 8 };
const INNER = { width: SIZE.width - SIZE.margin - SIZE.edge, height: SIZE.height - SIZE.margin - SIZE.edge };
const MOST = 256; // thumbnails at once, as the server sends them
const DEEPEST = 200; // the largest magnification
const NEAR = 12; // how far from a point it is still meant
const NAMED = 20; // classes in the legend
const SHARP = 2; // pixels of the thumbnails' canvas for each unit of the drawing
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const TOOLS = { decode: "Decode", move: "Move", select: "Select" };

const pairs = (one, other, by) => [by(one[0], other[0]), by(one[1], other[1])];
const middle = (one, other) => pairs(one, other, (a, b) => (a + b) / 2);
const away = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);
const within = (value, low, high) => Math.min(high, Math.max(low, value));

/**
 * Make the plane in a place. It calls `decode(point)` while the point is moved, `pick(index)` for an image that is chosen,
 * `select(indices, toggle)` for those in a lasso or in view, or for one that is added or taken away, and `pictures(indices)`
 * for their thumbnails. It is made once, so that a training that continues does not interrupt a drag.
 */
export function makePlane(place, { decode, pick, select, pictures }) {
  let latent = null;
  let point = null;
  let base = null; // left, right, bottom and top of all
  let zoom = 1;
  let centre = [0, 0]; // of what is in view
  let tool = "decode";
  let spread = { zoom: 0, indices: [] }; // images that have room for a thumbnail at this magnification
  let marks = { walk: [], own: null, picked: null, selected: new Set() };
  let hovered = null;
  const small = new Map(); // thumbnails by index
  let pictured = new Set(); // images that are drawn as thumbnails

  const layers = Object.fromEntries(["points", "marks", "path", "lasso"].map((id) => [id, svg("g", { id })]));
  const plane = svg("svg", { class: "plane", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: 0, role: "application", "aria-describedby": "plane-keys",
    "aria-label": "The latent plane. Arrow keys move the point that is decoded." }, layers.points, layers.marks, layers.path, layers.lasso);
  const thumbs = html("canvas", { class: "thumbs", width: SIZE.width * SHARP, height: SIZE.height * SHARP, role: "presentation" });
  // The handle is not part of the drawing: moving it would paint a thousand points again.
  const handle = html("div", { class: "handle", id: "handle" });
  const tip = html("div", { class: "tip", hidden: true });
  place.replaceChildren(thumbs, plane, handle, tip);

  // Where things are ------------------------------------------------------------------------------------------------

  const spans = () => [(base[1] - base[0]) / zoom, (base[3] - base[2]) / zoom];
  const x = (value) => SIZE.margin + ((value - centre[0]) / spans()[0] + 0.5) * INNER.width;
  const y = (value) => SIZE.edge + (0.5 - (value - centre[1]) / spans()[1]) * INNER.height;
  const back = ([px, py]) => [
    centre[0] + ((px - SIZE.margin) / INNER.width - 0.5) * spans()[0],
    centre[1] + (0.5 - (py - SIZE.edge) / INNER.height) * spans()[1],
  ];
  const at = (index) => [x(latent.points[index][0]), y(latent.points[index][1])];
  const inView = ([px, py], room = 0) => px >= SIZE.margin - room && px <= SIZE.width - SIZE.edge + room && py >= SIZE.edge - room && py <= SIZE.height - SIZE.margin + room;
  const visible = () => latent.points.flatMap((_, index) => (inView(at(index)) ? [index] : []));

  function nearest(where, most = Infinity) {
    let found = null;
    latent.points.forEach((_, index) => {
      const far = away(at(index), where);
      if (far < most) [found, most] = [index, far];
    });
    return found;
  }

  /** The place of the pointer in the drawing. */
  const under = (event) => {
    const box = plane.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIZE.width, ((event.clientY - box.top) / box.height) * SIZE.height];
  };

  // The view --------------------------------------------------------------------------------------------------------

  let due = false;
  function redraw() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      draw();
    });
  }

  /** Show another part: magnified `by`, with the place `fixed` of the drawing staying where it is. */
  function zoomTo(by, fixed = [x(point[0]), y(point[1])]) {
    const meant = back(fixed);
    const before = zoom;
    zoom = within(zoom * by, 1, DEEPEST);
    if (zoom === before) return;
    centre = pairs(meant, pairs(centre, meant, (a, b) => (a - b) * (before / zoom)), (a, b) => a + b);
    keepInside();
  }

  function pan([across, up]) {
    const [width, height] = spans();
    centre = [centre[0] - (across / INNER.width) * width, centre[1] + (up / INNER.height) * height];
    keepInside();
  }

  function keepInside() {
    const half = spans().map((span) => span / 2);
    centre = [within(centre[0], base[0] + half[0], base[1] - half[0]), within(centre[1], base[2] + half[1], base[3] - half[1])];
    hide();
    redraw();
  }

  /** As many images as have room for a thumbnail; which ones depends on the magnification alone, so that they stay while it moves. */
  function placed() {
    const side = thumbnail();
    if (spread.zoom === zoom && spread.side === side) return spread.indices;
    const taken = new Map();
    const [width, height] = spans();
    const indices = latent.points.flatMap(([a, b], index) => {
      const [px, py] = [(a / width) * INNER.width, (b / height) * INNER.height];
      const [column, row] = [Math.floor(px / side), Math.floor(py / side)];
      for (let i = -1; i <= 1; i++) {
        for (let j = -1; j <= 1; j++) {
          const other = taken.get(`${column + i} ${row + j}`);
          if (other && Math.abs(other[0] - px) < side && Math.abs(other[1] - py) < side) return [];
        }
      }
      taken.set(`${column} ${row}`, [px, py]);
      return [index];
    });
    spread = { zoom, side, indices };
    return indices;
  }

  /** The side of a thumbnail with its frame: larger where the whole drawing is shown small. */
  const thumbnail = () => (plane.clientWidth < 420 ? 56 : 36);

  async function fetchMissing(wanted) {
    const missing = wanted.filter((index) => !small.has(index));
    if (!missing.length) return;
    const found = sheet(await pictures(missing), missing.length);
    missing.forEach((index, row) => small.set(index, { ...found, row }));
    redraw();
  }
  const load = newestOnly(fetchMissing);

  // Drawing ---------------------------------------------------------------------------------------------------------

  const color = (index) => (latent.labels?.[index] === undefined ? "p0" : `p${latent.labels[index] % 10}`);
  const letters = () => latent.classes?.length > 0 && latent.classes.every((name) => [...name].length <= 2);

  function draw() {
    const wanted = zoom > 1 ? placed().filter((index) => inView(at(index))).slice(0, MOST) : [];
    if (wanted.some((index) => !small.has(index))) load(wanted).catch(() => {}); // without thumbnails the points stay
    pictured = new Set(wanted.filter((index) => small.has(index)));
    const asLetters = letters();
    const names = latent.classes ?? [];
    const drawn = visible().map((index) => {
      const [px, py] = at(index);
      if (pictured.has(index)) return square(index, `frame ${color(index)}`);
      return asLetters && latent.labels
        ? svg("text", { class: color(index), x: px, y: py, text: names[latent.labels[index]] })
        : svg("circle", { class: color(index), cx: px, cy: py, r: 3 });
    });
    layers.points.replaceChildren(...drawn,
      svg("text", { class: "axis", x: SIZE.width / 2, y: SIZE.height - 13, text: latent.axes[0] }),
      svg("text", { class: "axis", x: 11, y: SIZE.height / 2, transform: `rotate(-90 11 ${SIZE.height / 2})`, text: latent.axes[1] }));
    paintThumbnails(thumbnail());
    drawMarks();
    showHandle();
    plane.dataset.zoom = zoom;
    for (const button of place.parentElement.querySelectorAll("[data-zoom-by]")) button.disabled = button.dataset.zoomBy === "1.6" ? zoom === DEEPEST : zoom === 1;
    count(plane);
  }

  /** A frame around a thumbnail. */
  function square(index, look) {
    const side = thumbnail() - 2;
    const [left, top] = at(index).map((value) => value - side / 2);
    return svg("rect", { class: look, x: left, y: top, width: side, height: side });
  }

  function paintThumbnails(side) {
    const context = thumbs.getContext("2d");
    context.clearRect(0, 0, thumbs.width, thumbs.height);
    context.imageSmoothingEnabled = false;
    thumbs.dataset.indices = [...pictured].join(" ");
    for (const index of pictured) drawThumbnail(context, index, at(index).map((value) => (value - side / 2 + 2) * SHARP), (side - 4) * SHARP);
  }

  /** Draw a thumbnail into a square, as large as fits. */
  function drawThumbnail(context, index, [left, top], side) {
    const { canvas, width, height, row } = small.get(index);
    const by = side / Math.max(width, height);
    context.drawImage(canvas, 0, row * height, width, height, left + (side - width * by) / 2, top + (side - height * by) / 2, width * by, height * by);
  }

  function drawMarks() {
    const { walk, own, picked, selected } = marks;
    const rings = [...selected].filter((index) => index < latent.points.length && inView(at(index))).map((index) => pictured.has(index) ? square(index, "chosen") : svg("circle", { class: "chosen", cx: at(index)[0], cy: at(index)[1], r: 6 }));
    const here = picked !== null && picked < latent.points.length && inView(at(picked)) ? [svg("circle", { class: "picked", cx: at(picked)[0], cy: at(picked)[1], r: 10 })] : [];
    const spot = own && [x(own[0]), y(own[1])];
    const outside = spot && !inView(spot);
    if (spot) spot.splice(0, 2, within(spot[0], SIZE.margin, SIZE.width - SIZE.edge), within(spot[1], SIZE.edge, SIZE.height - SIZE.margin));
    const mine = spot ? [svg("path", { class: `own-place${outside ? " outside" : ""}`, d: `M${spot[0] - 9} ${spot[1]}h18M${spot[0]} ${spot[1] - 9}v18` })] : [];
    layers.marks.replaceChildren(...rings, ...here, ...mine);
    if (!walk.length) return;
    const ended = Object.entries({ A: walk[0], B: walk.at(-1) }).filter(([, where]) => inView([x(where[0]), y(where[1])])).flatMap(([name, where]) => [
      svg("circle", { class: "end", cx: x(where[0]), cy: y(where[1]), r: 8 }),
      svg("text", { class: "end-name", x: x(where[0]), y: y(where[1]) + 0.5, text: name }),
    ]);
    layers.path.replaceChildren(svg("path", { class: "path", d: `M${walk.map(([a, b]) => `${x(a)} ${y(b)}`).join("L")}` }), ...ended);
  }

  function showHandle() {
    const where = [x(point[0]), y(point[1])];
    handle.hidden = zoom > 1 && !inView(where);
    handle.style.left = `${(100 * where[0]) / SIZE.width}%`;
    handle.style.top = `${(100 * where[1]) / SIZE.height}%`;
  }

  function showLegend() {
    const names = latent.classes ?? [];
    find("#legend").replaceChildren(
      ...(letters() ? [] : names.slice(0, NAMED).map((name, index) =>
        html("span", {}, svg("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }, svg("circle", { class: `p${index % 10}`, cx: 4, cy: 4, r: 4 })), ` ${name}`),
      )),
      ...(letters() || names.length <= NAMED ? [] : [html("span", { class: "quiet", text: `and ${names.length - NAMED} more` })]),
    );
  }

  // The image under the pointer ----------------------------------------------------------------------------------------

  const name = (index) => [`image ${index}`, latent.labels ? latent.classes?.[latent.labels[index]] ?? latent.labels[index] : null].filter((part) => part !== null).join(" · ");

  const hover = newestOnly(async (index) => {
    if (index !== null) await fetchMissing([index]);
    if (index !== hovered || index === null || !small.has(index)) return;
    const canvas = html("canvas", { width: 72, height: 72, role: "presentation" });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    drawThumbnail(context, index, [0, 0], 72);
    tip.replaceChildren(canvas, html("span", { text: name(index) }));
    const [px, py] = at(index);
    const [right, low] = [px > SIZE.width / 2, py > SIZE.height / 2];
    Object.assign(tip.style, { left: right ? "auto" : `${(100 * (px + 14)) / SIZE.width}%`, right: right ? `${100 - (100 * (px - 14)) / SIZE.width}%` : "auto",
      top: low ? "auto" : `${(100 * (py + 14)) / SIZE.height}%`, bottom: low ? `${100 - (100 * (py - 14)) / SIZE.height}%` : "auto" });
    tip.hidden = false;
    tip.dataset.index = index;
  });

  function hide() {
    hovered = null;
    tip.hidden = true;
  }

  function look(event) {
    if (event.pointerType === "touch") return;
    const index = nearest(under(event), NEAR);
    if (index === hovered) return;
    hide();
    hovered = index;
    if (index !== null) hover(index).catch(() => {});
  }

  // The pointer and the keys --------------------------------------------------------------------------------------------

  const held = new Map(); // pointers that are down, and where
  let act = null; // "decode", "move", "select" or "pinch"
  let began = null;
  let lasso = [];

  const moveTo = (where) => {
    point = where;
    showHandle();
    decode(point);
  };

  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    const where = under(event);
    held.set(event.pointerId, where);
    hide();
    if (held.size === 2) {
      act = "pinch";
      clearLasso();
      return;
    }
    act = event.shiftKey ? "select" : tool;
    began = where;
    lasso = [where];
    if (act === "decode") moveTo(back(where));
  });
  plane.addEventListener("pointermove", (event) => {
    if (!held.has(event.pointerId)) return look(event);
    const before = [...held.values()];
    const where = under(event);
    const last = held.get(event.pointerId);
    held.set(event.pointerId, where);
    if (act === "decode") moveTo(back(where));
    else if (act === "move") pan(pairs(where, last, (a, b) => a - b));
    else if (act === "select") growLasso(where);
    else if (act === "pinch" && held.size === 2) {
      const now = [...held.values()];
      pan(pairs(middle(...now), middle(...before), (a, b) => a - b));
      zoomTo(away(...now) / Math.max(1, away(...before)), middle(...now));
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    plane.addEventListener(kind, (event) => {
      if (!held.delete(event.pointerId) || held.size) return;
      const where = under(event);
      const still = kind === "pointerup" && act !== "pinch" && away(where, began) < 4;
      const index = still ? nearest(where, NEAR) : null;
      if (index !== null) pick(index);
      else if (act === "select" && kind === "pointerup" && lasso.length > 2) select(latent.points.flatMap((_, place) => (inside(at(place), lasso) ? [place] : [])));
      clearLasso();
      act = null;
    });
  }
  plane.addEventListener("pointerleave", hide);
  plane.addEventListener("wheel", (event) => {
    if (event.deltaY >= 0 && zoom === 1) return; // the page scrolls on
    event.preventDefault();
    zoomTo(Math.exp(-within(event.deltaY, -200, 200) / 400), under(event));
  }, { passive: false });

  function growLasso(where) {
    if (away(where, lasso.at(-1)) > 3) lasso.push(where);
    layers.lasso.replaceChildren(svg("path", { class: "lasso", d: `M${lasso.map((one) => one.join(" ")).join("L")}Z` }));
  }

  function clearLasso() {
    lasso = [];
    layers.lasso.replaceChildren();
  }

  plane.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = MOVES[event.key];
    const here = [x(point[0]), y(point[1])];
    const actions = { "+": () => zoomTo(1.6), "=": () => zoomTo(1.6), "-": () => zoomTo(1 / 1.6), 0: () => zoomTo(0), Enter: () => pick(nearest(here)), " ": () => select([nearest(here)], true) };
    if (move && event.shiftKey) pan([-40 * move[0], 40 * move[1]]);
    else if (move) {
      moveTo(move.map((one, axis) => point[axis] + (one * spans()[axis]) / 50));
      const now = [x(point[0]), y(point[1])];
      if (zoom > 1 && !inView(now)) pan(pairs(here, now, (a, b) => 4 * (a - b)));
    } else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  });

  // The buttons ----------------------------------------------------------------------------------------------------------

  const zoomButton = (text, label, by) => html("button", { type: "button", text, "aria-label": label, title: label, "data-zoom-by": by, onclick: () => zoomTo(by, [SIZE.margin + INNER.width / 2, SIZE.edge + INNER.height / 2]) });
  const tools = html("div", { class: "choice small", role: "radiogroup", "aria-label": "What dragging does" }, ...Object.entries(TOOLS).map(([value, text]) => {
    const input = html("input", { type: "radio", name: "tool", value, checked: value === tool });
    return html("label", {}, input, html("span", { text }));
  }));
  tools.addEventListener("change", (event) => {
    tool = event.target.value;
    plane.classList.toggle("grab", tool === "move");
  });
  place.before(html("div", { class: "row plane-tools" }, tools, html("span", { class: "row" },
    zoomButton("+", "Zoom in", 1.6), zoomButton("−", "Zoom out", 1 / 1.6), zoomButton("Whole", "Show the whole plane", 0),
    html("button", { type: "button", text: "Select all in view", onclick: () => select(visible()) }))));

  return {
    /** Show the codes of test images. */
    show(found) {
      latent = found;
      const [left, right, bottom, top] = latent.extent;
      const room = (low, high) => (high > low ? (high - low) * 0.04 : 1);
      const before = base;
      base = [left - room(left, right), right + room(left, right), bottom - room(bottom, top), top + room(bottom, top)];
      point ??= [0, 0];
      if (!before || zoom === 1) centre = [(base[0] + base[1]) / 2, (base[2] + base[3]) / 2];
      spread = { zoom: 0, indices: [] };
      small.clear();
      keepInside();
      showLegend();
    },
    /** Move the handle to a point. */
    point(where) {
      point = where;
      showHandle();
    },
    /** Mark what is given: the points of `walk`, the place `own` of an own picture, the image `picked`, the set `selected`. */
    mark(changed) {
      marks = { ...marks, ...changed };
      if (latent) drawMarks();
    },
  };
}

/** Whether a place lies inside a polygon: whether a line from it crosses its sides an odd number of times. */
function inside([px, py], polygon) {
  let odd = false;
  polygon.forEach(([ax, ay], place) => {
    const [bx, by] = polygon.at(place - 1);
    if (ay > py !== by > py && px < ax + ((bx - ax) * (py - ay)) / (by - ay)) odd = !odd;
  });
  return odd;
}
