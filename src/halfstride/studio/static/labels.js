// Labels that a person gives to judged pictures: kept in the browser, counted, and written as a table.

/** The labels of one result, by path, in the browser's storage. */
export function labels(key) {
  const name = `labels ${key}`;
  const read = () => new Map(Object.entries(JSON.parse(localStorage.getItem(name) ?? "{}")));
  let kept = read();
  return {
    of: (path) => kept.get(path) ?? null,
    /** Keep a label, or with null none; throws an Error where the browser has no room. */
    set(path, label) {
      const before = kept;
      kept = read(); // another window may have added some
      if (label === null) kept.delete(path);
      else kept.set(path, label);
      try {
        localStorage.setItem(name, JSON.stringify(Object.fromEntries(kept)));
      } catch {
        kept = new Map([...before, [path, label]]);
        throw new Error("The browser has no room for more labels, which are lost with this page: export the list.");
      }
    },
  };
}

/** Of pictures with a label and a score: how many of each label lie on each side of a threshold. */
export function agreement(pictures, threshold) {
  const counts = { bad: { above: 0, below: 0 }, good: { above: 0, below: 0 } };
  for (const { score, label } of pictures) {
    if (label !== null && score !== null) counts[label][score > threshold ? "above" : "below"]++;
  }
  const { bad, good } = counts;
  const share = (part, rest) => (part + rest ? part / (part + rest) : null);
  return { ...counts, precision: share(bad.above, good.above), recall: share(bad.above, bad.below) };
}

const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

/** The corrected list as CSV, as `detect` writes its own. */
export function asTable(pictures, threshold) {
  const called = ({ score, judged }) => (!judged || score === null ? "" : score > threshold ? "anomalous" : "normal");
  const rows = pictures.map((one) => [one.path, one.score ?? "", threshold, called(one), one.label ?? ""]);
  return [["path", "pred_score", "threshold", "pred_label", "label"], ...rows]
    .map((row) => `${row.map((value) => cell(String(value))).join(",")}\r\n`).join("");
}
