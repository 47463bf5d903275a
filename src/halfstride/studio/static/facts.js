// Facts about a run's model, and the pictures in its folder.

import { facts, find, html } from "./dom.js";

/** Show the facts about a run and its model. */
export function showFacts(details) {
  const { image_shape: image, latent_shape: latent } = details;
  const known = {
    image: image?.join(" × "),
    latent: latent && (latent.length === 1 ? `vector of ${latent[0]}` : `map of ${latent.join(" × ")}`),
    variational: details.variational ? "yes" : null,
    weights: details.parameters?.toLocaleString("en"),
    encoder: details.encoder,
    upsampling: details.upsampling,
    images: details.source ?? "passed as arrays",
    input: [details.paired ? "pairs of input and target" : "", details.corruption].filter(Boolean).join("; ") || null,
  };
  find("#facts").replaceChildren(facts(Object.entries(known).filter(([, value]) => value)));
}

/** Show the pictures of a run whose encoder is the user's own and is not run here. */
export function showFiles({ not_run: why, pictures }, address) {
  const shown = pictures.filter((name) => name !== "losses.png"); // the page draws them itself
  find("#lab").classList.add("still");
  find("#notice").hidden = false;
  find("#notice").textContent = why;
  find("#files").hidden = !shown.length;
  find("#run-pictures").replaceChildren(...shown.map((name) => html("figure", {},
    html("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": name }, html("img", { src: `${address}/${encodeURIComponent(name)}`, alt: name })),
    html("figcaption", { class: "quiet small", text: name }))));
}
