// Which cells are shown: one recipe, a text, and ticked levels.
function visible() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  const hidden = Object.entries(state.hidden).filter(([, names]) => names.size);
  return groupCells().filter((cell) =>
    words.every((word) => cell.search.includes(word)) && hidden.every(([key, names]) => !names.has(filterLevel(cell, key))));
}
const filterLevel = (cell, key) => (key === "status" ? cell.status : level(cell, key));

function drawFilters() {
  const parts = [];
  if (data.groups.length > 1) {
    const options = data.groups.map((group, i) => [String(i), `${group.title} (${data.cells.filter((c) => c.group === i).length})`]);
    parts.push(choose("recipe", options, String(state.group), (value) => {
      Object.assign(state, { group: Number(value), on: 0, hidden: nothingHidden(), open: new Set(), chosen: null });
      drawEverything();
    }));
  }
  parts.push(el("input", { type: "search", placeholder: "filter by any text", "aria-label": "filter by text", value: state.text,
    oninput: (event) => { state.text = event.target.value; update(); } }));
  for (const key of [...data.choices, "status"]) {
    const counts = new Map();
    for (const cell of groupCells()) counts.set(filterLevel(cell, key), (counts.get(filterLevel(cell, key)) || 0) + 1);
    if (counts.size > 1) parts.push(filterOf(key, counts));
  }
  parts.push(el("button", { type: "button", onclick: () => { Object.assign(state, { hidden: nothingHidden(), text: "" }); drawFilters(); update(); } }, "show all"));
  parts.push(el("span", { id: "shown", role: "status" }));
  $("filters").replaceChildren(...parts);
}

function filterOf(key, counts) {
  const hidden = (state.hidden[key] ||= new Set());
  const order = key === "status" ? Object.keys(data.statuses).filter((name) => counts.has(name)) : levels(key);
  const box = el("details", { class: "filter" });
  const summary = el("summary", {});
  const say = () => {
    summary.textContent = hidden.size ? `${key} ${order.length - hidden.size}/${order.length}` : key;
    box.classList.toggle("active", hidden.size > 0);
  };
  const ticks = order.map((name) => {
    const tick = el("input", { type: "checkbox", checked: hidden.has(name) ? null : "", onchange: () => {
      hidden[tick.checked ? "delete" : "add"](name);
      say();
      update();
    } });
    return [tick, el("label", {}, tick, name, el("small", {}, String(counts.get(name))))];
  });
  const all = (checked) => () => {
    for (const [i, [tick]] of ticks.entries()) { tick.checked = checked; hidden[checked ? "delete" : "add"](order[i]); }
    say();
    update();
  };
  const buttons = el("div", { class: "controls" }, el("button", { type: "button", onclick: all(true) }, "all"),
    el("button", { type: "button", onclick: all(false) }, "none"));
  box.append(summary, el("div", {}, buttons, ticks.map(([, label]) => label)));
  say();
  return box;
}

document.addEventListener("click", (event) => {
  for (const box of document.querySelectorAll(".filter[open]")) if (!box.contains(event.target)) box.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const box = document.querySelector(".filter[open]");
  if (box) { box.open = false; box.querySelector("summary").focus(); }
  hideTip();
});
