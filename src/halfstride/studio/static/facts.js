// What a run is: its model in a few words, and what lies in its folder.

import { find, html } from "./dom.js";

/** A run and its model, as a list. */
export function showFacts(details) {
  const { image_shape: image, latent_shape: latent } = details;
  const facts = {
    image: image?.join(" × "),
    latent: latent && (latent.length === 1 ? `vector of ${latent[0]}` : `map of ${latent.join(" × ")}`),
    variational: details.variational ? "yes" : null,
    weights: details.parameters?.toLocaleString("en"),
    encoder: details.encoder,
    upsampling: details.upsampling,
    images: details.source ?? "handed over in memory",
    input: [details.paired ? "the images; their clean twins come out" : "", details.corruption].filter(Boolean).join("; ") || null,
  };
  find("#facts").replaceChildren(
    ...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [html("dt", { text: name }), html("dd", { text: value })]),
  );
}

/** Of a run with the user's own encoder, which is not run here, the pictures that its training drew. */
export function showFiles({ not_run: why, pictures }, address) {
  const shown = pictures.filter((name) => name !== "losses.png"); // which are on the page already
  find("#lab").classList.add("still");
  find("#notice").hidden = false;
  find("#notice").textContent = why;
  find("#files").hidden = !shown.length;
  find("#run-pictures").replaceChildren(...shown.map((name) => html("figure", {},
    html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": name }, html("img", { src: `${address}/${encodeURIComponent(name)}`, alt: name })),
    html("figcaption", { class: "quiet small", text: name }))));
}
