// Accuracy against a cost, with the Pareto front of what is shown.
function front(cells, metric) {
  // As zoo.report.pareto: the cheapest first; equal points are all kept.
  const sign = metric.higher ? -1 : 1;
  const sorted = [...cells].sort((a, b) => sign * (mean(a, metric) - mean(b, metric)) || mean(b, accuracy) - mean(a, accuracy));
  const kept = [];
  for (const cell of sorted) {
    const last = kept[kept.length - 1];
    const equal = last && mean(cell, metric) === mean(last, metric) && mean(cell, accuracy) === mean(last, accuracy);
    if (!last || mean(cell, accuracy) > mean(last, accuracy) || equal) kept.push(cell);
  }
  return kept;
}

function drawScatterControls() {
  const metrics = data.metrics.filter((metric) => metric !== accuracy);
  const choices = data.choices.map((key) => [key, key]);
  const conditions = data.groups[state.group].conditions;
  const then = (key) => (value) => { state[key] = value; drawScatterControls(); drawScatter(visible()); drawCurves(visible()); };
  $("scatter-controls").replaceChildren(
    choose("against", metrics.map((metric) => [metric.name, metric.label]), state.x, then("x")),
    choose("colour", choices, state.colour, then("colour")),
    choose("marker", choices, state.marker, then("marker")),
    // Figures of different devices never share an axis.
    ...(byName[state.x].measured && conditions.length > 1 ? [choose("measured on",
      conditions.map((on, i) => [String(i), `${letter(i)}: ${on.device}`]), String(state.on), (value) => then("on")(Number(value)))] : []));
}

function drawScatter(shown) {
  const metric = byName[state.x], place = $("scatter");
  const group = data.groups[state.group];
  const trained = shown.filter((cell) => cell.status === "completed" && !cell.same_as);
  const valued = trained.filter((cell) => mean(cell, metric) > 0 && mean(cell, accuracy) !== null);
  const cells = metric.measured ? valued.filter((cell) => cell.conditions === state.on) : valued;
  const notes = [];
  if (!cells.length) {
    place.replaceChildren(el("p", { class: "note" }, `No completed cell with a value for ${metric.label} is shown.`));
    $("scatter-legend").replaceChildren();
    $("scatter-note").textContent = "";
    $("scatter-note").dataset.front = "";
    return;
  }
  const colour = colourOf(state.colour), markers = levels(state.marker);
  const kept = front(cells, metric);
  const low = cells.map((cell) => mean(cell, accuracy) - (cell.metrics[accuracy.key].sd || 0));
  const high = cells.map((cell) => mean(cell, accuracy) + (cell.metrics[accuracy.key].sd || 0));
  let points;
  const chart = drawChart(place, { x: cells.map((cell) => mean(cell, metric)), y: [...low, ...high], xLog: true, height: 430,
    xLabel: `${metric.label}: ${metric.text}`, yLabel: "test accuracy", xText: short, yText: (v) => String(v) }, (x, y) => {
    points = cells.map((cell) => {
      const [px, py] = [x.at(mean(cell, metric)), y.at(mean(cell, accuracy))];
      const fill = colour(level(cell, state.colour));
      const mark = svg("path", { class: "point", d: SHAPES[markers.indexOf(level(cell, state.marker)) % 8],
        transform: `translate(${px} ${py})`, "data-cell": cell.id });
      mark.style.fill = mark.style.stroke = fill;
      return { cell, px, py, mark, fill };
    });
    const bars = points.filter(({ cell }) => cell.metrics[accuracy.key].sd).map(({ cell, px, fill }) => {
      const { mean: middle, sd } = cell.metrics[accuracy.key];
      const bar = svg("line", { x1: px, x2: px, y1: y.at(middle - sd), y2: y.at(middle + sd), opacity: 0.55 });
      bar.style.stroke = fill;
      return bar;
    });
    const steps = kept.map((cell, i) => {
      const [px, py] = [x.at(mean(cell, metric)), y.at(mean(cell, accuracy))];
      return i ? `H${px}V${py}` : `M${px},${py}`;
    });
    return [bars, svg("path", { class: "front", d: steps.join("") }), points.map((point) => point.mark)];
  });
  chart.addEventListener("pointermove", (event) => {
    const near = nearest(points, pointerIn(chart, event));
    points.forEach((point) => point.mark.classList.toggle("on", point === near));
    if (!near) return hideTip();
    const here = points.filter((p) => p !== near && Math.hypot(p.px - near.px, p.py - near.py) < 3);
    showTip(event, near.cell.name, tipLines(near.cell).concat(here.length ? [`at the same place: ${here.slice(0, 4).map((p) => p.cell.name).join("; ")}${here.length > 4 ? ` and ${here.length - 4} more` : ""}`] : []));
  });
  chart.addEventListener("pointerleave", hideTip);
  chart.addEventListener("click", (event) => {
    const near = nearest(points, pointerIn(chart, event));
    if (near) showRow(near.cell);
  });
  const seen = (key) => new Set(cells.map((cell) => level(cell, key)));
  const dot = (name) => shape(0, colour(name)), grey = (name) => shape(markers.indexOf(name), "var(--quiet)");
  $("scatter-legend").replaceChildren(...(state.colour === state.marker
    ? legendOf(state.colour, (name) => shape(markers.indexOf(name), colour(name)), seen(state.colour))
    : [...legendOf(state.colour, dot, seen(state.colour)), ...legendOf(state.marker, grey, seen(state.marker))]));
  if (kept.length) notes.push(`Pareto front (dashed), ${metric.higher ? "fastest" : "cheapest"} first: ${kept.map((cell) => cell.name).join(" → ")}.`);
  if (cells.some((cell) => cell.metrics[accuracy.key].sd)) notes.push("Bars: ± one standard deviation over seeds.");
  if (metric.measured) notes.push(conditionsNote(group));
  if (valued.length > cells.length) notes.push(`${valued.length - cells.length} cells were measured under other conditions; they do not compare and are left out.`);
  $("scatter-note").textContent = notes.join(" ");
  $("scatter-note").dataset.front = kept.map((cell) => cell.id).join(" ");
}

function nearest(points, [px, py]) {
  let found = null, least = 18;
  for (const point of points) {
    const distance = Math.hypot(point.px - px, point.py - py);
    if (distance < least) [found, least] = [point, distance];
  }
  return found;
}

function tipLines(cell) {
  const lines = data.metrics.filter((metric) => cell.metrics[metric.key]).map((metric) => {
    const iqr = cell.metrics[`${metric.key}_iqr`];
    return `${metric.label} ${spread(cell.metrics[metric.key], metric.key)}${iqr ? `, IQR ${human(iqr.mean, metric.key, mean(cell, metric))}` : ""}`;
  });
  lines[0] += ` (${cell.n} seed${cell.n === 1 ? "" : "s"})`;
  return lines;
}

function conditionsNote(group) {
  const text = group.conditions.map((conditions, i) => `${group.conditions.length > 1 ? `${letter(i)}: ` : ""}${conditionsText(conditions)}`);
  return text.length ? `Measured on ${text.join("; ")}.` : "";
}
const letter = (i) => "abcdefghijklmnopqrstuvwxyz"[i % 26] + (i > 25 ? Math.floor(i / 26) : "");
const conditionsText = (conditions) =>
  Object.entries(conditions).filter(([, value]) => value !== "–").map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(", ") || "unknown conditions";
