// A picture with its anomaly map over it, on the scale that all maps of a result share.

import { html } from "./dom.js";

const unpack = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** What `paintFound` draws, from the server's answer. */
export function unpacked({ picture, map }) {
  const pixels = unpack(picture.rgb);
  if (!map) return { ...picture, pixels, values: null };
  const values = Float32Array.from(new Uint16Array(unpack(map.values).buffer), (step) => map.low + (step / 65535) * (map.high - map.low));
  return { width: map.width, height: map.height, pixels, values, times: map.width / picture.width };
}

/**
 * Draw a picture with its map over it, as clearly as its values are large, and a line around what is above the threshold.
 *
 * `scale` is where the colours end; `opacity` is that of the largest values.
 */
export function paintFound(canvas, { width, height, pixels, values, times = 1 }, { threshold, scale, colours, opacity }) {
  const image = new ImageData(width, height);
  const wide = width / times;
  const above = (at) => values[at] > threshold;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const from = 3 * (Math.floor(y / times) * wide + Math.floor(x / times));
      const strength = values ? Math.min(Math.max(values[at] / scale, 0), 1) : 0;
      const alpha = Math.min(1.5 * strength, opacity);
      const shade = 3 * Math.min(255, Math.floor(256 * strength));
      const edge = values && above(at) &&
        ((y > 0 && !above(at - width)) || (y < height - 1 && !above(at + width)) || (x > 0 && !above(at - 1)) || (x < width - 1 && !above(at + 1)));
      for (let channel = 0; channel < 3; channel++) {
        image.data[4 * at + channel] = edge ? 255 : Math.round(pixels[from + channel] * (1 - alpha) + colours[shade + channel] * alpha);
      }
      image.data[4 * at + 3] = 255;
    }
  }
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The colours of the scale, from 0 to its end, with a mark for the threshold; returns a function that moves it. */
export function showScale(place, { scale, colours }) {
  const bar = html("canvas", { width: 256, height: 1, role: "presentation" });
  const image = new ImageData(256, 1);
  for (let at = 0; at < 256; at++) image.data.set([...colours.slice(3 * at, 3 * at + 3), 255], 4 * at);
  bar.getContext("2d").putImageData(image, 0, 0);
  const mark = html("i", {});
  place.replaceChildren(html("div", { class: "bar" }, bar, mark), html("span", { text: "0" }), html("span", { text: scale.toFixed(1) }));
  return (threshold) => (mark.style.left = `${100 * Math.min(Math.max(threshold / scale, 0), 1)}%`);
}

/** The server's colours. */
export const coloursOf = ({ colours }) => unpack(colours);
