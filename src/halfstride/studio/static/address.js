// What the page shows, as its address, and the layers of the server's requests.

import { query as given } from "./dom.js";

export const SLIDERS = [
  { name: "input_size", text: "input size", of: "input" },
  { name: "kernel_size", text: "kernel size", of: "kernel" },
  { name: "stride", text: "stride", scale: "scale factor" },
  { name: "padding", text: "padding" },
  { name: "dilation", text: "dilation" },
  { name: "output_padding", text: "output padding", only: "transposed" },
];
export const SPEEDS = ["0.25", "0.5", "1", "2", "4"];
const START = {
  conv: { input_size: 7, kernel_size: 3, stride: 2, padding: 1 },
  transposed: { input_size: 3, kernel_size: 3, stride: 2, padding: 0 },
  resize: { input_size: 3, kernel_size: 3, stride: 2, padding: 1 },
  subpixel: { input_size: 3, kernel_size: 3, stride: 2, padding: 1 },
};
const ORIGIN = ["run", "image", "from", "channels", "corner"];

function defaults(form) {
  return { form, dims: "2", ...START[form], dilation: 1, output_padding: 0, input: null, kernel: null, ...besideDefaults("none") };
}

/** The layer beside: another operator with a kernel size and padding of its own, or "none". */
export const besideDefaults = (form) =>
  ({ beside: form, beside_kernel: START[form]?.kernel_size ?? 3, beside_padding: START[form]?.padding ?? 0 });

/** The state of the page: a layer, the one beside it, and how they are shown. */
export function readAddress(address = given()) {
  const form = address.get("form") in START ? address.get("form") : "transposed";
  const found = { ...defaults(form), by: "inputs", step: null, turned: "no", language: "pytorch", speed: "1", loop: false };
  if (address.get("beside") in START) Object.assign(found, besideDefaults(address.get("beside")));
  for (const name of [...SLIDERS.map((one) => one.name), "beside_kernel", "beside_padding"]) {
    if (/^\d{1,3}$/.test(address.get(name) ?? "")) found[name] = Number(address.get(name));
  }
  if (address.get("dims") === "1") found.dims = "1";
  for (const name of ["input", "kernel"]) if (address.get(name)) found[name] = address.get(name);
  if (address.get("by") === "outputs") found.by = "outputs";
  if (address.get("matrix") === "turned") found.turned = "yes";
  if (/^\d{1,4}$/.test(address.get("step") ?? "")) found.step = Number(address.get("step"));
  if (address.get("code") === "halfstride") found.language = "halfstride";
  if (SPEEDS.includes(address.get("speed"))) found.speed = address.get("speed");
  found.loop = address.get("loop") === "yes";
  return found;
}

/** Where the network page took input and kernel from; null where they are not from there. */
export function readOrigin(state) {
  const address = given();
  const found = Object.fromEntries(ORIGIN.map((name) => [name, address.get(name) ?? ""]));
  const pair = /^\d{1,9},\d{1,9}$/;
  const whole = pair.test(found.channels) && pair.test(found.corner) && /^\d{1,9}$/.test(found.image) && found.run && found.from;
  return whole && state.input && state.kernel ? { ...found, input: state.input, kernel: state.kernel } : null;
}

/** What of the layers is not as at the beginning. */
export function layerQuery(state) {
  const query = new URLSearchParams();
  const usual = { ...defaults(state.form), ...besideDefaults(state.beside), beside: "none" };
  if (state.form !== "transposed") query.set("form", state.form);
  const beside = state.beside === "none" ? [] : ["beside", "beside_kernel", "beside_padding"];
  for (const name of ["dims", ...SLIDERS.map((one) => one.name), ...beside, "input", "kernel"]) {
    if (state[name] !== usual[name] && state[name] !== null) query.set(name, state[name]);
  }
  return query;
}

/** What follows the page's path. */
export function written(state, origin, playing) {
  const query = layerQuery(state);
  if (state.by !== "inputs") query.set("by", state.by);
  if (state.step !== null && !playing) query.set("step", state.step);
  if (state.turned === "yes") query.set("matrix", "turned");
  if (state.language !== "pytorch") query.set("code", state.language);
  if (state.speed !== "1") query.set("speed", state.speed);
  if (state.loop) query.set("loop", "yes");
  if (origin) for (const name of ORIGIN) query.set(name, origin[name]);
  const text = query.toString().replaceAll("%2C", ",");
  return text ? `?${text}` : location.pathname;
}

/** The whole layer, with the defaults of this page, for the server. */
export function wholeQuery(state) {
  const query = new URLSearchParams({ form: state.form, dims: state.dims });
  // A setting that another kind of layer does not have is kept for when the kind is changed back.
  for (const { name, only } of SLIDERS) if (!only || only === state.form) query.set(name, state[name]);
  for (const name of ["input", "kernel"]) if (state[name]) query.set(name, state[name]);
  return query;
}

/** The layer beside: with the same input, and the same kernel where it has as many numbers. */
export function besideQuery(state) {
  const { beside: form, beside_kernel: kernel_size, beside_padding: padding } = state;
  const other = { ...state, form, kernel_size, padding };
  if (counts(other).kernel !== state.kernel?.split(",").length) other.kernel = null;
  return wholeQuery(other);
}

/** How many numbers an input and a kernel have. */
export const counts = ({ form, dims, input_size: n, kernel_size: k, stride }) => ({
  input: n ** dims, kernel: k ** dims * (form === "subpixel" ? stride ** dims : 1),
});
