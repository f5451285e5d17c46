// A line a run, epoch by epoch.
function drawCurves(shown) {
  const keys = ["val/acc", "val/loss", "train/loss"].filter((key) => data.runs.some((run) => run.epochs?.[key]));
  if (keys.length && !keys.includes(state.curve)) state.curve = keys[0];
  $("curves-controls").replaceChildren(...(keys.length ? [choose("of", keys.map((key) => [key, key]), state.curve,
    (value) => { state.curve = value; drawCurves(visible()); })] : []));
  const runs = shown.flatMap((cell) => cell.runs.filter((run) => !run.same_as && run.epochs?.[state.curve]).map((run) => ({ cell, run })));
  for (const line of runs) {
    const { epoch, [state.curve]: values } = line.run.epochs;
    line.points = epoch.map((e, i) => [e + 1, values[i]]).filter(([, value]) => value !== null);
  }
  const lines = runs.filter((line) => line.points.length);
  if (!lines.length) {
    $("curves").replaceChildren(el("p", { class: "note" }, "No epochs.jsonl of a shown run has this figure."));
    $("curves-legend").replaceChildren();
    $("curves-note").textContent = "";
    return;
  }
  const colour = colourOf(state.colour);
  let last = 1, low = Infinity, high = -Infinity;
  for (const { points } of lines) for (const [epoch, value] of points) {
    last = Math.max(last, epoch); low = Math.min(low, value); high = Math.max(high, value);
  }
  const chart = drawChart($("curves"), { x: [1, last], y: [low, high], height: 380, xLabel: "epoch", yLabel: state.curve,
    xText: (v) => (Number.isInteger(v) ? String(v) : ""), yText: (v) => String(v) }, (x, y) => lines.map((line) => {
    line.pixels = line.points.map(([epoch, value]) => [x.at(epoch), y.at(value)]);
    const alone = line.pixels.length === 1 ? "h0.01" : "";
    line.path = svg("path", { class: "curve", d: `M${line.pixels.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join("L")}${alone}`,
      opacity: Math.max(0.12, Math.min(0.85, 25 / lines.length)), "stroke-linecap": "round",
      "stroke-dasharray": line.run.status === "completed" ? null : "4 3" });
    line.path.style.stroke = colour(level(line.cell, state.colour));
    return line.path;
  }));
  let on = null;
  const mark = (line) => {
    on?.path.classList.remove("on");
    on = line;
    if (!on) return hideTip();
    on.path.classList.add("on");
    on.path.parentNode.append(on.path);
  };
  chart.addEventListener("pointermove", (event) => {
    const [px, py] = pointerIn(chart, event);
    let found = null, least = 12;
    for (const line of lines) for (const [x, y] of line.pixels) {
      if (Math.abs(x - px) < least && Math.hypot(x - px, y - py) < least) [found, least] = [line, Math.hypot(x - px, y - py)];
    }
    if (found !== on) mark(found);
    if (found) {
      const [epoch, value] = found.points[found.points.length - 1];
      showTip(event, found.cell.name, [`seed ${found.run.seed ?? "–"}: ${found.run.status}`, `${state.curve} ${value.toPrecision(4)} after epoch ${epoch}`]);
    }
  });
  chart.addEventListener("pointerleave", () => mark(null));
  chart.addEventListener("click", () => on && showRow(on.cell));
  $("curves-legend").replaceChildren(...legendOf(state.colour, (name) => shape(1, colour(name)), new Set(lines.map((line) => level(line.cell, state.colour)))));
  $("curves-note").textContent = `${lines.length} runs.` + (lines.some((line) => line.run.status !== "completed") ? " Dashed: did not complete, or not yet." : "");
}
