// Changing numbers of the input and the kernel, in a field over their cells; for the keyboard too.

import { textOf } from "./cells.js";
import { find, html, standalone } from "./dom.js";

/**
 * Make the numbers of a layer's scatter view editable. `begin` is called before a field opens, `focus` with the cell that
 * the keyboard is at, `take` with a number that was typed, `refuse` with a message.
 */
export function allowEditing(shown, { begin, focus, take, refuse }) {
  const sheet = shown.sheets.scatter;
  const panel = shown.panel("scatter");
  let close = null; // closes the field in which a number is edited

  // For the keyboard: a button over a number of the input and one over a number of the kernel; arrow keys move them.
  const buttons = {};
  for (const kind of ["input", "kernel"]) {
    buttons[kind] = html("button", { type: "button", class: "spot", "data-kind": kind, "data-index": 0 });
    buttons[kind].addEventListener("focus", () => shown.told && focus(kind, Number(buttons[kind].dataset.index)));
    find(".sheet", panel).append(buttons[kind]);
  }

  const cellOf = (kind, index) => sheet.drawing.cells.find((one) => one.editable && one.kind === kind && one.index === index);

  /** Move the button over a number of the input or the kernel; says whether there is such a number. */
  function stand(kind, index) {
    const found = cellOf(kind, index) ?? cellOf(kind, 0);
    sheet.cover(buttons[kind], found);
    buttons[kind].dataset.index = found.index;
    buttons[kind].setAttribute("aria-label", `${kind} ${shown.spot(kind, found.index)}: ${textOf(found)}.${standalone ? "" : " Change it."}`);
    return found.index === index;
  }

  panel.addEventListener("keydown", (event) => {
    if (!event.target.matches(".spot")) return;
    const { kind } = event.target.dataset;
    const index = Number(event.target.dataset.index);
    const { input_size: n, kernel_size: k, dims } = shown.told.layer;
    // With one axis the input is drawn as a column, and the kernel as a row.
    const row = dims === 2 ? { input: n, kernel: k }[kind] : { input: 1, kernel: 0 }[kind];
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row };
    if (event.key in moves) {
      if (!stand(kind, index + moves[event.key])) stand(kind, index);
      focus(kind, Number(event.target.dataset.index));
    } else if (event.key === "Enter" || event.key === " ") edit({ kind, index });
    else if (/^[-0-9.]$/.test(event.key)) edit({ kind, index }, event.key);
    else return;
    event.preventDefault();
  });

  /** Show a field over the cell. Enter, or leaving the field, accepts the number; Escape does not. */
  function edit({ kind, index }, first = null) {
    if (standalone) return; // what follows from another number only the server knows
    begin();
    const number = shown.told[kind][index];
    const field = html("input", {
      class: "editor", type: "text", inputmode: "decimal", "aria-label": `New value of ${kind} ${shown.spot(kind, index)}`,
    });
    field.value = first ?? String(number);
    sheet.cover(field, cellOf(kind, index));
    stand(kind, index);
    find(".sheet", panel).append(field);
    field.focus();
    if (first === null) field.select();
    close = (accept) => {
      close = null;
      const text = field.value.trim().replace(",", ".").replace("−", "-");
      field.remove();
      if (!accept || text === String(number)) return;
      if (text === "" || !Number.isFinite(Number(text))) refuse(`“${text}” is not a number: type one such as 3 or −0.5.`);
      else take(kind, index, Number(text));
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Enter" && event.key !== "Escape") return;
      close?.(event.key === "Enter");
      buttons[kind].focus({ preventScroll: true });
    });
    field.addEventListener("blur", () => close?.(true));
  }

  return {
    edit,
    /** Close the field without taking its number. */
    cancel: () => close?.(false),
    /** Bring the buttons to where a new drawing has their numbers. */
    settle() {
      for (const kind of ["input", "kernel"]) stand(kind, Number(buttons[kind].dataset.index));
    },
  };
}
