// Main effects and interactions, as zoo.report.effects computed them.
function drawEffects() {
  const metric = byName[state.effect];
  const found = data.groups[state.group].effects[state.effect];
  $("effects-controls").replaceChildren(choose("on", data.metrics.map((m) => [m.name, m.label]), state.effect,
    (value) => { state.effect = value; drawEffects(); }));
  if (typeof found === "string") {
    $("effects-note").textContent = `Nothing to show: ${found}.`;
    $("effects").replaceChildren();
    return;
  }
  $("effects-note").textContent = (metric.difference
    ? "Effect: how far a level lies above or below the mean of all levels, other choices being equal."
    : "Effect: how many times the geometric mean of all levels, other choices being equal.")
    + " Lines are 95 % intervals; where an interval contains the middle line, the effect is within noise. An interaction is what"
    + " two choices do together beyond the sum of what each does.";
  const single = found.filter((effects) => effects.factors.length === 1), pairs = found.filter((effects) => effects.factors.length === 2);
  $("effects").replaceChildren(el("div", { class: "effect-grid" }, sizes(found, metric), single.map((e) => mainEffect(e, metric))),
    el("div", { class: "pairs" }, pairs.map((e) => interaction(e, metric))));
}

const place = (value, ratio) => (ratio ? Math.log(value) : value);
const effectText = (value, metric) => (value === null ? "–" : metric.difference ? signed(value, 4) : `×${value.toPrecision(3)}`);

function basis(effects) {
  const over = effects.over === "seeds"
    ? `Intervals over ${effects.effects[0].n} seeds`
    : effects.contexts > 1 ? `Intervals over ${effects.contexts} circumstances, as the cells do not share several seeds` : "One circumstance, so no interval";
  const used = `; ${effects.contexts} of ${effects.all_contexts} circumstances have every level`;
  return over + used + (effects.left_out.length ? `; left out for too few cells: ${effects.left_out.join(", ")}` : "") + ".";
}

// The root mean square of each choice's effects, the largest first.
function sizes(found, metric) {
  const ratio = !metric.difference, size = (effects) => place(effects.size, ratio);
  const sorted = [...found].sort((a, b) => size(b) - size(a));
  const most = Math.max(...sorted.map(size)) || 1;
  const width = 360, left = 130, right = width - 62;
  const rows = sorted.map((effects, i) => {
    const y = 12 + i * 24, bar = (size(effects) / most) * (right - left);
    const main = effects.factors.length === 1;
    const mark = svg("rect", { x: left, y: y - 8, width: Math.max(1, bar), height: 16, rx: 2, opacity: main ? 1 : 0.55 });
    mark.style.fill = "var(--c0)";
    const noise = effects.noise === null ? null : left + Math.min(1, place(effects.noise, ratio) / most) * (right - left);
    const tick = noise === null ? null : svg("line", { x1: noise, x2: noise, y1: y - 11, y2: y + 11, "stroke-width": 2 });
    if (tick) tick.style.stroke = "var(--c1)";
    return [svg("text", { class: "level", x: left - 8, y: y + 4, "text-anchor": "end" }, effects.factors.join(" × ")), mark, tick,
      svg("text", { x: Math.max(left + bar, noise ?? 0) + 6, y: y + 4 }, metric.difference ? effects.size.toFixed(4) : `×${effects.size.toPrecision(3)}`)];
  });
  const noisy = found.some((effects) => effects.noise !== null);
  return el("div", { class: "effect" }, el("h3", {}, "Size of each choice"),
    el("p", {}, `Root mean square of its effects.${noisy ? " The orange tick is what noise over seeds alone would give." : " One seed: how much of it is noise is unknown."}`),
    svg("svg", { viewBox: `0 0 ${width} ${sorted.length * 24 + 4}`, role: "img", "aria-label": "size of each choice" }, rows));
}

function mainEffect(effects, metric) {
  const ratio = !metric.difference, width = 360, left = 120, right = width - 74;
  const values = effects.effects.flatMap((e) => [e.mean, e.low ?? e.mean, e.high ?? e.mean]).map((v) => place(v, ratio));
  const scale = makeScale([...values, 0], left, right);
  const middle = svg("line", { class: "grid", x1: scale.at(0), x2: scale.at(0), y1: 0, y2: effects.effects.length * 24 });
  const rows = effects.effects.map((effect, i) => {
    const y = 12 + i * 24, at = (value) => scale.at(place(value, ratio));
    const sure = effect.low !== null && place(effect.low, ratio) * place(effect.high, ratio) > 0;
    const line = effect.low === null ? null : svg("line", { x1: at(effect.low), x2: at(effect.high), y1: y, y2: y, "stroke-width": 2 });
    if (line) line.style.stroke = "var(--c0)";
    const dot = svg("circle", { cx: at(effect.mean), cy: y, r: 5, "stroke-width": 2 });
    dot.style.stroke = "var(--c0)";
    dot.style.fill = sure ? "var(--c0)" : "var(--card)";
    return [svg("text", { class: "level", x: left - 8, y: y + 4, "text-anchor": "end" }, clip(effect.levels[0], 18)), line, dot,
      svg("text", { x: width, y: y + 4, "text-anchor": "end" }, effectText(effect.mean, metric))];
  });
  return el("div", { class: "effect" }, el("h3", {}, effects.factors[0]), el("p", {}, basis(effects)),
    svg("svg", { viewBox: `0 0 ${width} ${effects.effects.length * 24}`, role: "img", "aria-label": `effect of ${effects.factors[0]}` }, middle, rows));
}

function interaction(effects, metric) {
  const ratio = !metric.difference;
  const [rows, heads] = [0, 1].map((i) => [...new Set(effects.effects.map((effect) => effect.levels[i]))]);
  const most = Math.max(...effects.effects.map((effect) => Math.abs(place(effect.mean, ratio)))) || 1;
  const found = new Map(effects.effects.map((effect) => [JSON.stringify(effect.levels), effect]));
  const body = rows.map((row) => el("tr", {}, el("th", { scope: "row" }, clip(row, 18)), heads.map((head) => {
    const effect = found.get(JSON.stringify([row, head]));
    const value = place(effect.mean, ratio);
    const sure = effect.low !== null && place(effect.low, ratio) * place(effect.high, ratio) > 0;
    const interval = effect.low === null ? "no interval" : `95 %: ${effectText(effect.low, metric)} to ${effectText(effect.high, metric)}`;
    const box = el("td", { class: sure ? "sure" : null, title: interval }, effectText(effect.mean, metric));
    box.style.background = `color-mix(in oklab, var(${value < 0 ? "--minus" : "--plus"}) ${Math.round((55 * Math.abs(value)) / most)}%, transparent)`;
    return box;
  })));
  return el("div", { class: "effect" }, el("h3", {}, effects.factors.join(" × ")), el("p", {}, `${basis(effects)} Bold: the interval does not contain ${ratio ? "×1" : "0"}.`),
    el("table", { class: "heat" }, el("thead", {}, el("tr", {}, el("td"), heads.map((head) => el("th", { scope: "col", class: "number" }, clip(head, 18))))), el("tbody", {}, body)));
}

const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
