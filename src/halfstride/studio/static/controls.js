// The controls of the upsampling page: the kind of layer, its arguments, the lecture's slides, and the layer beside.

import { besideDefaults, layerQuery, readAddress, SLIDERS } from "./address.js";
import { choice, find, html } from "./dom.js";
import { prefer } from "./fullscreen.js";
import { PRESETS } from "./presets.js";

/**
 * The controls of a page's `state`. `ranges` has the arguments with their ranges; `change` is called with arguments that
 * were changed, and `begin` with the address of a slide. Returns functions that show the state.
 */
export function controls(state, ranges, { change, begin }) {
  /** A slider for an argument, in a place; returns its parts. */
  function slider(place, name, text, range, of) {
    const input = html("input", { type: "range", min: range.minimum, name, id: name, "aria-label": text });
    const output = html("output", { for: name });
    const title = html("b", { class: of ? `${of}-ink` : "", text });
    const row = html("label", { class: `slider ${of ? `of-${of}` : ""}` }, html("span", {}, title, output), input);
    input.addEventListener("input", () => change({ [name]: Number(input.value) }));
    find(place).append(row);
    const set = () => {
      input.max = Math.max(range.sliders[state.dims - 1], state[name]);
      input.value = state[name];
      output.textContent = state[name];
    };
    return { row, input, title, set };
  }

  const sliders = new Map(SLIDERS.map(({ name, text, of }) => [name, slider("#sliders", name, text, ranges[name], of)]));
  const besideSliders = [
    slider("#beside-sliders", "beside_kernel", "its kernel size", ranges.kernel_size, "kernel"),
    slider("#beside-sliders", "beside_padding", "its padding", ranges.padding),
  ];
  for (const [place, { name }] of PRESETS.entries()) find("#preset").append(html("option", { value: place, text: name }));

  const setForm = choice(find("#form"), (form) => change({ form }));
  const setDims = choice(find("#dims"), (dims) => change({ dims }));
  find("#beside").addEventListener("change", (event) => change(besideDefaults(event.target.value)));
  find("#preset").addEventListener("change", (event) => {
    const preset = PRESETS[event.target.value];
    if (!preset) return;
    begin(new URLSearchParams(preset.address));
    prefer(preset.view);
  });

  /** Show which slide the layer is, and what is to be seen there. */
  function showPreset() {
    const layers = PRESETS.map(({ address }) => readAddress(new URLSearchParams(address)));
    const alike = layers.filter((one) => String(layerQuery(one)) === String(layerQuery(state)));
    const place = layers.indexOf(alike.find((one) => one.by === state.by) ?? alike[0]);
    find("#preset").value = place < 0 ? "" : place;
    find("#preset-note").hidden = place < 0;
    find("#preset-note").textContent = PRESETS[place]?.look ?? "";
  }

  function showArguments() {
    setForm(state.form);
    setDims(state.dims);
    for (const { name, text, scale, only } of SLIDERS) {
      const { row, input, title, set } = sliders.get(name);
      set();
      title.textContent = scale && ["resize", "subpixel"].includes(state.form) ? scale : text;
      input.ariaLabel = title.textContent;
      row.classList.toggle("off", Boolean(only) && only !== state.form);
    }
    for (const { set } of besideSliders) set();
    find("#beside").value = state.beside;
    find("#beside-sliders").hidden = state.beside === "none";
    showPreset();
  }

  return { showArguments, showPreset };
}
