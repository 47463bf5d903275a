// A drawing pad for runs of small grey images.

import { html } from "./dom.js";

const LARGEST = 64; // pixels of a side for which there is a pad
const RADIUS = 1.25; // of the pen, for images of 28 pixels

/** Whether images of this shape, channels, height and width, can be drawn. */
export const drawable = (shape) => shape?.[0] === 1 && Math.max(...shape.slice(1)) <= LARGEST;

/** Make a pad for images of a height and width; calls `drawn` with the picture, a PGM file, after each stroke's step. */
export function makePad(height, width, drawn) {
  const ink = new Float32Array(height * width); // 0 for none, 1 for all
  const radius = Math.max(1, (RADIUS * Math.max(height, width)) / 28);
  const canvas = html("canvas", { class: "pad", width, height, tabindex: 0, role: "application",
    "aria-label": "Drawing pad. Arrow keys move the pen, Space lowers or lifts it, Delete clears." });
  const cursor = html("i", { class: "pen", hidden: true });
  let inverted = false;
  let last = null;
  let pen = [Math.round(width / 2), Math.round(height / 2)];
  let down = false;

  const bytes = () => Uint8Array.from(ink, (value) => Math.round(255 * value));

  function paint() {
    const image = new ImageData(width, height);
    bytes().forEach((value, place) => {
      image.data.fill(inverted ? 255 - value : value, 4 * place, 4 * place + 3);
      image.data[4 * place + 3] = 255;
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function changed() {
    paint();
    drawn(new Blob([`P5 ${width} ${height} 255\n`, bytes()]));
  }

  /** Draw a line between two places, with soft edges. */
  function line([ax, ay], [bx, by]) {
    const length = Math.max(1e-6, (bx - ax) ** 2 + (by - ay) ** 2);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const [px, py] = [column + 0.5 - ax, row + 0.5 - ay];
        const share = Math.min(1, Math.max(0, (px * (bx - ax) + py * (by - ay)) / length));
        const far = Math.hypot(px - share * (bx - ax), py - share * (by - ay));
        const place = row * width + column;
        ink[place] = Math.max(ink[place], Math.min(1, Math.max(0, radius + 0.5 - far)));
      }
    }
    changed();
  }

  function clear() {
    ink.fill(0);
    changed();
  }

  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = under(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    const now = under(event);
    line(last, now);
    last = now;
  });

  function showPen() {
    Object.assign(cursor.style, { left: `${(100 * (pen[0] + 0.5)) / width}%`, top: `${(100 * (pen[1] + 0.5)) / height}%` });
    cursor.classList.toggle("down", down);
  }
  canvas.addEventListener("focus", () => {
    cursor.hidden = !canvas.matches(":focus-visible");
    showPen();
  });
  canvas.addEventListener("blur", () => (cursor.hidden = true));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && ![" ", "Delete", "Backspace"].includes(event.key)) return;
    event.preventDefault();
    cursor.hidden = false;
    const before = pen;
    if (move) pen = [Math.min(width - 1, Math.max(0, pen[0] + move[0])), Math.min(height - 1, Math.max(0, pen[1] + move[1]))];
    else if (event.key === " ") down = !down;
    else clear();
    if (down && event.key !== "Delete" && event.key !== "Backspace") line(before.map((one) => one + 0.5), pen.map((one) => one + 0.5));
    showPen();
  });

  paint();
  return {
    node: html("div", { class: "pad-tools" }, html("div", { class: "paper" }, canvas, cursor), html("button", { type: "button", text: "Clear", onclick: clear })),
    /** Show it dark on light; what is sent stays light on dark. */
    invert(value) {
      inverted = value;
      paint();
    },
  };
}
