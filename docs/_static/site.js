// A button to stop an animation, and a slider through its steps. Who asks for less motion sees it stopped at its end.
document.addEventListener("DOMContentLoaded", () => {
  // Code that is wider than the page can be scrolled with the keyboard too, and the captions of the contents have a level.
  for (const block of document.querySelectorAll("pre")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = "2";

  for (const player of document.querySelectorAll(".animation")) {
    const drawing = player.querySelector("svg");
    const moving = drawing.querySelector("animate");
    if (!moving || !drawing.pauseAnimations) continue;
    const seconds = Number(player.dataset.seconds);
    const duration = parseFloat(moving.getAttribute("dur"));
    const last = Math.round(duration / seconds) - 3; // the last step is held three times as long

    const controls = document.createElement("div");
    controls.className = "controls";
    controls.innerHTML =
      '<button type="button" aria-label="Play or pause"></button>' +
      '<input type="range" min="0" value="0" step="1" aria-label="Step of the animation"><output></output>';
    player.append(controls);
    const [button, slider, shown] = controls.children;
    slider.max = last;

    const show = (step) => {
      slider.value = step;
      shown.textContent = `${step + 1} / ${last + 1}`;
    };
    const play = (plays) => {
      if (plays) drawing.unpauseAnimations();
      else drawing.pauseAnimations();
      button.textContent = plays ? "Pause" : "Play";
    };
    button.addEventListener("click", () => play(drawing.animationsPaused()));
    slider.addEventListener("input", () => {
      play(false);
      drawing.setCurrentTime((Number(slider.value) + 0.5) * seconds);
      show(Number(slider.value));
    });
    setInterval(() => {
      if (!drawing.animationsPaused()) {
        show(Math.min(last, Math.floor((drawing.getCurrentTime() % duration) / seconds)));
      }
    }, 100);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still) drawing.setCurrentTime((last + 0.5) * seconds);
    show(still ? last : 0);
    play(!still);
  }
});
