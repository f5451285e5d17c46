"use strict";
// Data, state, and how elements and numbers are made. Text is only ever set by textContent.
const data = JSON.parse(document.getElementById("data").textContent);
const accuracy = data.metrics[0];
const byName = Object.fromEntries(data.metrics.map((metric) => [metric.name, metric]));
data.cells.forEach((cell, id) => {
  cell.id = id;
  cell.runs = cell.runs.map((run) => data.runs[run]);
  cell.name = data.choices.filter((key) => Object.hasOwn(cell.choices, key)).map((key) => cell.choices[key]).join(" ") || cell.runs[0].folder;
  const texts = cell.runs.flatMap((run) => [run.folder, run.command, run.error, run.status]);
  cell.search = [cell.name, cell.note, cell.status, ...texts].join("\n").toLowerCase();
});

// By choice: the levels that are not shown. A choice may have any name, so the object inherits none.
function nothingHidden() {
  return Object.create(null);
}

const state = {
  group: 0, on: 0, text: "", hidden: nothingHidden(), x: "params", colour: "conv", marker: "model", effect: "acc", curve: "val/acc",
  sort: "acc", reverse: false, rows: 200, open: new Set(), chosen: null,
};

const $ = (id) => document.getElementById(id);

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}
const el = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
const svg = (tag, properties, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

// A value of a cell, null where it has none.
const mean = (cell, metric) => cell.metrics[metric.key]?.mean ?? null;
const level = (cell, key) => (Object.hasOwn(cell.choices, key) ? String(cell.choices[key]) : "–");

function short(value) {
  for (const [factor, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= factor) return `${Number((value / factor).toPrecision(3))} ${unit}`;
  }
  return String(Number(value.toPrecision(3)));
}

// `like`: the value that sets the number of digits, for a spread beside its mean.
function human(value, key, like = value) {
  if (value === null || value === undefined) return "–";
  if (key.endsWith("/acc")) return value.toFixed(4);
  if (key.startsWith("cost/")) return short(value);
  const size = Math.abs(like);
  return size >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(size >= 1 ? 1 : 3);
}

// Mean ± standard deviation over seeds.
function spread(found, key) {
  if (!found) return "–";
  return human(found.mean, key) + (found.sd ? ` ± ${human(found.sd, key, found.mean)}` : "");
}

function verdict(against) {
  if (!against) return "";
  if (against.verdict === "within noise") return against.verdict;
  if (!["higher", "lower"].includes(against.verdict)) return `? (${against.verdict})`;
  return `${signed(against.mean, 4)} ± ${against.half_width.toFixed(4)}`;
}
function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) ? (value < 0 ? "−" : "+") + text : text;
}

// Levels of a choice in the group, numbers by size.
function levels(key) {
  const found = [...new Set(groupCells().map((cell) => level(cell, key)))];
  return found.sort((a, b) => (isNaN(a) || isNaN(b) ? (a < b ? -1 : 1) : a - b));
}
const groupCells = () => data.cells.filter((cell) => cell.group === state.group);

function colourOf(key) {
  const all = levels(key);
  const numbers = all.length > 4 && all.every((name) => name === "–" || !isNaN(name));
  return (name) => {
    const place = all.indexOf(name);
    if (!numbers) return `var(--c${place % 8})`;
    return `color-mix(in oklab, var(--seq1) ${Math.round((100 * place) / (all.length - 1))}%, var(--seq0))`;
  };
}

function choose(label, options, current, then) {
  const changed = () => {
    then(select.value);
    // What was drawn anew should keep the keyboard's focus.
    if (!select.isConnected) document.querySelector(`label[data-choice="${label}"] select`)?.focus();
  };
  const select = el("select", { onchange: changed },
    options.map(([value, text]) => el("option", { value, selected: value === current ? "" : null }, text)));
  return el("label", { "data-choice": label }, `${label} `, select);
}

function showTip(event, title, lines) {
  const tip = $("tip");
  tip.replaceChildren(el("b", {}, title), ...lines.map((line) => el("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 16 + width < innerWidth ? event.clientX + 16 : event.clientX - width - 16;
  tip.style.left = `${Math.max(4, right)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - height - 4))}px`;
}
const hideTip = () => { $("tip").hidden = true; };
