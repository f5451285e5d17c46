// Puts it together, and draws again what a change concerns.
function update() {
  const shown = visible();
  $("shown").textContent = `${shown.length} of ${groupCells().length} cells`;
  drawScatter(shown);
  drawTable(shown);
  drawCurves(shown);
}

function drawEverything() {
  drawFilters();
  drawScatterControls();
  update();
  drawEffects();
}

document.title = `convzoo report: ${data.folders.join(" ")}`;
$("source").textContent = `${data.folders.join(" ")} · ${data.made}`
  + (data.groups.length > 1 ? ` · ${data.groups.length} recipes, which are never ranked against each other` : "");
$("counts").replaceChildren(...Object.entries(data.counts).map(([name, count]) =>
  el("li", { class: name, title: data.statuses[name] || "the same network and recipe: run once, shown twice" }, el("b", {}, String(count)), ` ${name}`)));
drawEverything();

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  update();
});
