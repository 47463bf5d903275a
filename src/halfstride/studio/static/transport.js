// Playing step by step: the buttons, the slider, the speed, and the loop.

import { find, html } from "./dom.js";
import { SPEEDS } from "./address.js";

const PLAY = "M4 2v12l10-6z";
const PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";
const NAMES = { 0.25: "¼×", 0.5: "½×", 1: "1×", 2: "2×", 4: "4×" };
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * The transport of a page whose `state` has `step` (null where all is shown), `speed` and `loop`. `steps` says how many
 * there are, 0 while nothing is shown; `go` shows one; `changed` is called where only the address changes.
 */
export function transport({ state, steps, go, changed }) {
  let timer = null;
  const position = () => (state.step === null ? steps() : state.step);
  const delay = () => Math.max(calm.matches ? 700 : 90, Math.min(900, 14000 / steps())) / Number(state.speed);

  function next() {
    const ended = position() >= steps();
    go(ended ? 0 : position() + 1);
    if (state.step !== null) timer = setTimeout(next, delay());
    else if (state.loop) timer = setTimeout(next, 3 * delay()); // the whole is seen for longer
    else stop();
  }

  function play() {
    if (timer !== null) return stop();
    if (!steps()) return;
    if (state.step === null) go(0);
    timer = setTimeout(next, delay());
    showPlaying(true);
  }

  function stop() {
    if (timer === null) return;
    clearTimeout(timer);
    timer = null;
    showPlaying(false);
    changed();
  }

  function showPlaying(playing) {
    find("#play").setAttribute("aria-label", playing ? "Pause" : "Play");
    find("#play path").setAttribute("d", playing ? PAUSE : PLAY);
  }

  /** Stop, then show a step, where there are any. */
  const jump = (to) => (stop(), steps() && go(to()));

  find("#speed").append(...SPEEDS.map((value) => html("option", { value, text: NAMES[value] })));
  find("#play").addEventListener("click", play);
  find("#back").addEventListener("click", () => jump(() => position() - 1));
  find("#forward").addEventListener("click", () => jump(() => (state.step === null ? 0 : state.step + 1)));
  find("#step").addEventListener("input", (event) => jump(() => Number(event.target.value)));
  find("#speed").addEventListener("change", (event) => {
    state.speed = event.target.value;
    changed();
  });
  find("#loop").addEventListener("change", (event) => {
    state.loop = event.target.checked;
    changed();
  });
  return {
    play,
    stop,
    playing: () => timer !== null,
    showSettings() {
      find("#speed").value = state.speed;
      find("#loop").checked = state.loop;
    },
  };
}
