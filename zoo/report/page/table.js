// The table of cells: sorted by any column, each row with its runs, their errors and commands.
function columns() {
  const cells = groupCells(), group = data.groups[state.group];
  const found = [{ name: "rank", head: "#", number: true, value: (cell) => cell.rank, text: (cell) => cell.rank ?? "" }];
  for (const key of data.choices) {
    found.push({ name: `choice ${key}`, head: key, value: (cell) => (Object.hasOwn(cell.choices, key) ? cell.choices[key] : null), text: (cell) => level(cell, key) });
  }
  for (const metric of data.metrics) {
    const show = metric === accuracy ? accuracyText : (cell) => human(mean(cell, metric), metric.key) + (cell.noisy.includes(metric.key) ? ` ${data.noise.mark}` : "");
    found.push({ name: metric.name, head: metric.label, title: metric.text, number: true, down: metric.higher, text: show,
      value: (cell) => mean(cell, metric), hint: (cell) => metric !== accuracy && hint(cell, metric) });
    if (metric === accuracy && cells.some((cell) => cell.n > 1)) {
      const against = (cell) => (cell.id === group.best ? "best" : verdict(cell.against_best));
      found.push({ name: "against", head: "vs best", number: true, down: true, text: against,
        value: (cell) => (cell.id === group.best ? 0 : cell.against_best?.mean ?? null) });
    }
  }
  if (group.conditions.length > 1) {
    found.push({ name: "on", head: "on", title: "conditions of the measured figures", value: (cell) => cell.conditions,
      text: (cell) => (cell.conditions !== null ? letter(cell.conditions) : cell.status === "completed" ? "mixed" : "") });
  }
  if (cells.some(reason)) found.push({ name: "note", head: "note", why: true, value: (cell) => reason(cell) || null, text: reason });
  // On a telephone the accuracy would be out of sight.
  const place = found.findIndex((column) => column.name === "acc");
  if (innerWidth < 700) found.splice(1, 0, ...found.splice(place, 1));
  return found;
}

function reason(cell) {
  const error = cell.runs.map((run) => run.error).find(Boolean);
  return [cell.note, error && error.trim().split("\n")[0]].filter(Boolean).join(": ");
}

function accuracyText(cell) {
  if (cell.status !== "completed") {
    const badge = el("span", { class: `badge ${cell.status}`, title: data.statuses[cell.status] }, cell.status);
    return cell.status === "running" ? [badge, progress(cell)] : badge;
  }
  return spread(cell.metrics[accuracy.key], accuracy.key) + (cell.runs.length > 1 ? ` (${cell.n})` : "");
}

function progress(cell) {
  const { epoch, "val/acc": values } = cell.runs.find((run) => run.status === "running").epochs || { epoch: [] };
  if (!epoch.length) return "";
  const last = values?.[values.length - 1] ?? null;
  return ` epoch ${epoch[epoch.length - 1] + 1}${last === null ? "" : `, val ${human(last, "val/acc")}`}`;
}

function hint(cell, metric) {
  const found = cell.metrics[metric.key], iqr = cell.metrics[`${metric.key}_iqr`];
  if (!found) return null;
  return `${spread(found, metric.key)}${found.n > 1 ? ` over ${found.n} seeds` : ""}${iqr ? `, interquartile range ${human(iqr.mean, metric.key, found.mean)}` : ""}`;
}

function sortCells(cells, column) {
  const sign = (column.down ? -1 : 1) * (state.reverse ? -1 : 1);
  // What has no value stays at the end, whichever way.
  return [...cells].sort((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.id - b.id;
    const both = typeof x === "number" && typeof y === "number";
    return sign * (both ? x - y : String(x).localeCompare(String(y), "en", { numeric: true })) || a.id - b.id;
  });
}

function drawTable(shown) {
  const all = columns();
  const sorted = sortCells(shown, all.find((column) => column.name === state.sort) || all[0]);
  const heads = all.map((column) => {
    const active = column.name === state.sort;
    const rising = Boolean(column.down) === state.reverse;
    const button = el("button", { type: "button", "data-column": column.name, onclick: () => {
      Object.assign(state, { sort: column.name, reverse: active && !state.reverse });
      drawTable(visible());
      document.querySelector(`#table button[data-column="${CSS.escape(column.name)}"]`).focus();
    } }, column.head, active ? (rising ? " ▲" : " ▼") : "");
    return el("th", { scope: "col", class: column.number ? "number" : null, title: column.title,
      "aria-sort": active ? (rising ? "ascending" : "descending") : null }, button);
  });
  const body = el("tbody");
  for (const cell of sorted.slice(0, state.rows)) {
    body.append(rowOf(cell, all));
    if (state.open.has(cell.id)) body.append(detailOf(cell, all.length + 1));
  }
  $("table").replaceChildren(el("thead", {}, el("tr", {}, el("th", { scope: "col", "aria-label": "runs and command" }), heads)), body);
  const rest = sorted.length - state.rows;
  $("table-more").replaceChildren(...(rest > 0 ? [el("button", { type: "button", onclick: () => { state.rows = Infinity; drawTable(visible()); } }, `show ${rest} more rows`)] : []));
  $("table-note").textContent = tableNote();
}

function tableNote() {
  const group = data.groups[state.group], notes = [`Recipe: ${group.title}.`];
  if (group.test_images) notes.push(`Tested on ${group.test_images.toLocaleString("en")} images: one image is ${(1 / group.test_images).toPrecision(2)}.`);
  if (group.versions) notes.push(group.versions);
  notes.push(conditionsNote(group));
  if (group.conditions.length > 1) notes.push("Speeds, latency and time of different letters do not compare.");
  if (groupCells().some((cell) => cell.noisy.length)) notes.push(data.noise.legend);
  if (!groupCells().some((cell) => cell.n > 1)) notes.push("One seed a cell: which differences are noise is unknown.");
  return notes.join(" ");
}

function rowOf(cell, all) {
  const open = state.open.has(cell.id);
  const toggle = el("button", { type: "button", "aria-expanded": String(open), "aria-label": `runs of ${cell.name}`,
    onclick: () => {
      state.open[open ? "delete" : "add"](cell.id);
      drawTable(visible());
      document.querySelector(`#table tr[data-cell="${cell.id}"] button`)?.focus();
    } }, open ? "▾" : "▸");
  const classes = [cell.same_as ? "copy" : "", cell.id === state.chosen ? "on" : ""].join(" ").trim();
  return el("tr", { "data-cell": cell.id, class: classes || null }, el("td", {}, toggle, copyButton(commandsOf(cell), `command of ${cell.name}`)),
    all.map((column) => el("td", { class: column.number ? "number" : column.why ? "why" : null,
      title: (column.why && column.text(cell)) || (column.hint && column.hint(cell)) || null }, column.text(cell))));
}

const commandsOf = (cell) => [...new Set(cell.runs.map((run) => run.command).filter(Boolean))].join("\n");

function copyButton(text, what) {
  if (!text) return null;
  const button = el("button", { type: "button", title: text, "aria-label": `copy the ${what}`, onclick: async () => {
    await copy(text);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  } }, "copy");
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without permission, as in some browsers for a file: the old way.
    const area = el("textarea", {});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function detailOf(cell, span) {
  const choices = Object.entries(cell.choices).map(([key, value]) => `${key}=${value}`).join("  ");
  return el("tr", { class: "detail" }, el("td", { colspan: span }, el("dl", {}, el("dt", {}, "choices"), el("dd", {}, choices)),
    cell.runs.map((run) => {
      const pairs = [["run", [el("span", { class: `badge ${run.status}` }, run.status), run.seed === null ? "" : `  seed ${run.seed}`, run.same_as ? "  (figures of the run it is the same as)" : ""]]];
      const values = Object.entries(run.metrics).filter(([key]) => !key.endsWith("_iqr")).map(([key, value]) => {
        const iqr = run.metrics[`${key}_iqr`];
        return `${key} ${human(value, key)}${iqr === undefined ? "" : ` (IQR ${human(iqr, key, value)})`}`;
      });
      if (values.length) pairs.push(["metrics", [values.join("  ")]]);
      if (Object.keys(run.measured_on).length) pairs.push(["measured on", [conditionsText(run.measured_on)]]);
      if (run.error) pairs.push(["why", [el("pre", {}, run.error)]]);
      for (const problem of run.problems) pairs.push(["problem", [problem]]);
      if (run.command) pairs.push(["command", [el("code", {}, run.command), " ", copyButton(run.command, "command")]]);
      pairs.push(["folder", [el("code", {}, run.same_as || run.folder)]]);
      return el("dl", {}, pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
    })));
}

function showRow(cell) {
  Object.assign(state, { chosen: cell.id, rows: Infinity });
  drawTable(visible());
  document.querySelector(`#table tr[data-cell="${cell.id}"]`)?.scrollIntoView({ block: "center" });
}
