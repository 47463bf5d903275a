// Images that the server sent, pixel by pixel on canvases.

import { html } from "./dom.js";

/** Draw a picture on a canvas. */
export function paint(canvas, { width, height, rgb }) {
  const bytes = atob(rgb);
  const image = new ImageData(width, height);
  const pixels = image.data.fill(255);
  for (let from = 0, to = 0; from < bytes.length; from += 3, to += 4) {
    pixels[to] = bytes.charCodeAt(from);
    pixels[to + 1] = bytes.charCodeAt(from + 1);
    pixels[to + 2] = bytes.charCodeAt(from + 2);
  }
  if (canvas.width !== width) canvas.width = width; // setting it clears the canvas, even to the same
  if (canvas.height !== height) canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A canvas with a picture; without a name it is decoration. */
export function picture(image, name) {
  const canvas = html("canvas", name ? { role: "img", "aria-label": name } : { role: "presentation" });
  paint(canvas, image);
  return canvas;
}

/** A canvas with one map of bytes, beginning at a place among them; where they end it stays empty. */
export function greyMap({ width, height }, bytes, start, name) {
  const canvas = html("canvas", { width, height, ...(name ? { role: "img", "aria-label": name } : { role: "presentation" }) });
  const image = new ImageData(width, height);
  const end = Math.min(bytes.length, start + width * height);
  for (let from = start, to = 0; from < end; from++, to += 4) {
    image.data.fill(bytes.charCodeAt(from), to, to + 3);
    image.data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Several pictures of one size, sent one below the other: a canvas with all, and the size of one. */
export function sheet(image, pictures) {
  return { canvas: picture(image), width: image.width, height: image.height / pictures };
}
