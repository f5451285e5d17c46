// Axes, marks and the shapes of points.
const SHAPES = [
  "M5,0A5,5 0 1 1 -5,0A5,5 0 1 1 5,0Z", "M-4.5,-4.5H4.5V4.5H-4.5Z", "M0,-5.5L5.5,4.5H-5.5Z", "M0,-6L6,0L0,6L-6,0Z",
  "M0,5.5L5.5,-4.5H-5.5Z", "M-2,-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z", "M-5.5,0L4.5,-5.5V5.5Z", "M5.5,0L-4.5,-5.5V5.5Z",
];

function niceStep(span, count) {
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * ([1, 2, 5].find((factor) => factor * power >= raw) || 10);
}

function ticksBetween(low, high, log, count) {
  const decades = Math.log10(high / low);
  if (log && decades >= 0.7) {
    const factors = decades * 3 <= count ? [1, 2, 5] : [1];
    const powers = Array.from({ length: Math.ceil(decades) + 2 }, (_, i) => 10 ** (Math.floor(Math.log10(low)) + i));
    return powers.flatMap((power) => factors.map((factor) => factor * power)).filter((tick) => tick >= low && tick <= high);
  }
  const step = niceStep(high - low, count);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// From values to pixels.
function makeScale(values, from, to, log = false) {
  let low = Math.min(...values), high = Math.max(...values);
  if (log) {
    if (low === high) [low, high] = [low / 2, high * 2];
    const margin = (high / low) ** 0.05;
    [low, high] = [low / margin, high * margin];
  } else {
    const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    [low, high] = [low - margin, high + margin];
  }
  const position = log ? Math.log : (value) => value;
  const share = (value) => (position(value) - position(low)) / (position(high) - position(low));
  const at = (value) => from + share(value) * (to - from);
  // Labels stand side by side along x, and above each other along y.
  return { at, ticks: ticksBetween(low, high, log, Math.max(3, Math.abs(to - from) / (to > from ? 75 : 45))) };
}

// An empty chart with its axes. `draw` gets the two scales and returns what goes into it.
function drawChart(place, { x, y, xLabel, yLabel, xLog, xText, yText, height }, draw) {
  const width = Math.max(280, place.clientWidth);
  const [left, right, top, bottom] = [62, width - 14, 12, height - 44];
  const scaleX = makeScale(x, left, right, xLog), scaleY = makeScale(y, bottom, top);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} against ${xLabel}` },
    scaleX.ticks.map((tick) => [
      svg("line", { class: "grid", x1: scaleX.at(tick), x2: scaleX.at(tick), y1: top, y2: bottom }),
      svg("text", { x: scaleX.at(tick), y: bottom + 17, "text-anchor": "middle" }, xText(tick)),
    ]),
    scaleY.ticks.map((tick) => [
      svg("line", { class: "grid", x1: left, x2: right, y1: scaleY.at(tick), y2: scaleY.at(tick) }),
      svg("text", { x: left - 7, y: scaleY.at(tick) + 4, "text-anchor": "end" }, yText(tick)),
    ]),
    svg("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
    svg("text", { x: 14, y: (top + bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 14 ${(top + bottom) / 2})` }, yLabel));
  chart.append(...draw(scaleX, scaleY).flat(Infinity));
  place.replaceChildren(chart);
  return chart;
}

// Where the pointer is, in the chart's own units.
function pointerIn(chart, event) {
  const box = chart.getBoundingClientRect();
  const factor = chart.viewBox.baseVal.width / box.width;
  return [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
}

const shape = (place, colour) =>
  svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" },
    svg("path", { d: SHAPES[place % 8], fill: colour, stroke: colour }));

function legendOf(key, mark, seen) {
  return [el("span", { class: "of" }, key), ...levels(key).filter((name) => seen.has(name))
    .map((name) => el("span", {}, mark(name), name))];
}
