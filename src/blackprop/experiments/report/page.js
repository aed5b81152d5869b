// The page: what is selected, the cards, and when they are drawn.
"use strict";
let report = JSON.parse(document.getElementById("report")?.textContent ?? '{"runs":[],"tasks":{},"methods":{},"results":[],"curves":[],"portraits":[],"now":[]}');
const view = { task: Object.keys(report.tasks)[0] ?? "", run: "", device: "", across: "steps", scale: "linear", loss: "linear",
  overhead: "row_overhead", layer: "", method: "", seed: "", hidden: new Set() };
const $ = (id) => document.getElementById(id);
const unique = (list) => [...new Set(list)];
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const CHARTS = [
  ["side", () => dots("metric", metricName(), { share: percent() })],
  ["gap", gap],
  ["lab", () => dots("lab_seconds", "lab time (s)", { log: true })],
  ["metric", () => lines(["metric"], metricName(), { share: percent() })],
  ["loss", () => lines(["loss"], "training loss", { log: view.loss === "log" })],
  ["rates", () => lines(["rate/digital", "rate/theta"], "learning rate", { log: true, dashes: { "rate/digital": "dot", "rate/theta": "solid" } })],
  ["signal", () => lines([`layer/signal/${view.layer}`], "share of signal, ρ")],
  ["snr", () => lines([`layer/snr/${view.layer}`], "ρ/(1 − ρ)", { log: true })],
  ["cosine", () => lines([`layer/oracle_cosine/${view.layer}`], "cosine")],
  ["cosine_x", () => lines([`layer/oracle_cosine_x/${view.layer}`], "cosine")],
  ["noise", () => lines([`layer/noise/${view.layer}`], "relative noise")],
  ["drift", () => lines([`layer/drift/${view.layer}`], "displacement of θ")],
  ["recalibrations", () => lines([`layer/recalibrations/${view.layer}`], "recalibrations")],
  ["at_limit", () => lines([`layer/at_limit/${view.layer}`], "share of θ at a limit", { share: true })],
  ["residual", () => lines([`layer/residual/${view.layer}`], "relative residual", { log: true })],
];
const metricName = () => task().metric.replaceAll("_", " ");

// What may be selected; what is selected stays so where it still can be.
function choices() {
  const here = [...report.curves, ...report.results, ...report.portraits].filter((c) => c.task === view.task);
  offer("task", Object.keys(report.tasks));
  offer("run", ["", ...report.runs.filter((run) => here.some((c) => c.run === run))], { "": "all, side by side" }, 3);
  const inRun = here.filter((c) => !view.run || c.run === view.run);
  offer("device", unique(inRun.map((c) => c.device)));
  const shown = inView(report.curves);
  const layers = shown.flatMap((c) => Object.keys(c.series)).filter((name) => name.startsWith("layer/"));
  offer("layer", unique(layers.map((name) => name.split("/").slice(2).join("/"))));
  const drawn = cellsWithPortrait(), trained = drawn.filter((c) => !reference(c.method));
  offer("method", unique([...trained, ...drawn].map((c) => portraitName(c))));
  offer("seed", unique(drawn.filter((c) => portraitName(c) === view.method).map((c) => String(c.seed))));
}
function offer(name, values, names = {}, least = 2) {
  if (!values.includes(view[name])) view[name] = values[0] ?? "";
  const select = $(name);
  if (!select) return; // the live page has fewer
  select.replaceChildren(...values.map((value) => element("option", { value }, names[value] ?? value)));
  select.value = view[name];
  select.parentElement.hidden = values.length < least;
}
const cellsWithPortrait = () =>
  report.portraits.filter((c) => c.task === view.task && c.device === view.device && (!view.run || c.run === view.run));
const portraitName = (c) => (report.runs.length > 1 && !view.run ? `${c.method} · ${c.run}` : c.method);

function paint() {
  hint();
  choices();
  chips();
  if (!view.task) return;
  const figures = CHARTS.filter(([name]) => $("plot-" + name)).map(([name, make]) => [$("plot-" + name), make()]);
  for (const [plot, figure] of figures) plot.closest(".card").hidden = !figure; // first: it decides how wide the others are
  const empty = (id) => !$(id).querySelector(".card:not([hidden])");
  for (const id of ["comparison", "learning", "health"].filter($)) $(id).hidden = empty(id);
  for (const [plot, figure] of figures) show(plot, figure);
  if (!$("gap-note")) return; // of the report alone
  const outside = inView(report.results).filter((r) => !reference(r.method) && r.figures.gap_closed && !(r.figures[view.overhead][0] > 0));
  $("gap-note").textContent = outside.length
    ? "At no overhead: " + outside.map((r) => `${r.method} ${plain(r.figures.gap_closed[0])}`).join(", ") + "."
    : "";
  portrait();
}
function show(plot, figure) {
  if (figure) draw(plot, figure.data, figure.layout);
}

function chips() {
  const here = inViewAll().map((c) => c.method), names = Object.keys(report.methods).filter((m) => here.includes(m));
  const focused = document.activeElement?.dataset?.method;
  $("chips").replaceChildren(...names.map((name) => {
    const chip = element("button", { class: "chip", type: "button", "data-method": name, "aria-pressed": !view.hidden.has(name) },
      element("span", { class: `swatch ${reference(name) || (place(name) < 7 ? "" : "again")}`,
        style: `--colour: ${colour(name)}` }), name);
    chip.addEventListener("click", () => {
      if (!view.hidden.delete(name)) view.hidden.add(name);
      paint();
    });
    return chip;
  }));
  const shown = [...inView(report.curves), ...inView(report.results)], several = shown.filter((c) => twice(c, shown));
  $("symbols").textContent = unique(several.map((c) => c.run))
    .map((run) => GLYPHS[report.runs.indexOf(run) % GLYPHS.length] + "\u00a0" + run).join("   ");
  $("symbols").hidden = !several.length;
  [...$("chips").children].find((chip) => chip.dataset.method === focused)?.focus();
}
function inViewAll() {
  return [...report.curves, ...report.results].filter((c) => c.task === view.task && (!view.run || c.run === view.run || reference(c.method)));
}

// One trained network: its θ, its matrices, what it confuses.
function portrait() {
  const shown = cellsWithPortrait().find((c) => portraitName(c) === view.method && String(c.seed) === view.seed);
  $("portraits").hidden = !shown;
  const cards = $("portrait");
  cards.replaceChildren();
  if (!shown) return;
  const waiting = [];
  const plot = (name, figure) => {
    const made = element("div", { class: "plot", role: "img", "aria-label": name });
    waiting.push([made, figure]);
    return made;
  };
  const layers = Object.entries(shown.layers).map(([name, layer]) => [name ? `layer ${name}` : "the layer", layer]);
  for (const [called, layer] of layers) {
    const matrices = Object.entries(layer.matrices);
    if (matrices.length) cards.append(matrixCard(called, layer, matrices, plot));
  }
  for (const [called, { theta }] of layers)
    if (theta) cards.append(card(`Settings θ of ${called}`, plot(`histogram of θ of ${called}`, histogram(theta))));
  if (shown.confusion) cards.append(card("Confusion matrix", plot("confusion matrix", confusion(shown))));
  for (const [made, figure] of waiting) show(made, figure);
}
const card = (title, ...children) => element("figure", { class: "card" }, element("h3", {}, title), ...children);
function matrixCard(called, layer, matrices, plot) {
  const names = { before: "before training", after: "after training", surrogate: "its surrogate's, after" };
  const drawn = matrices.map(([name, matrix]) =>
    element("div", {}, element("p", {}, names[name]), plot(`${names[name]}, transfer matrix of ${called}`, heatmap(matrix, layer.largest))));
  const scale = element("div", { class: "scale" }, plain(-layer.largest), element("i"), plain(layer.largest));
  const made = card(`Transfer matrix of ${called}`, element("div", { class: "matrices" }, ...drawn), scale);
  if (layer.difference !== null) made.append(element("p", { class: "note" },
    `The surrogate's matrix differs from the device's by ${(100 * layer.difference).toPrecision(2)} % of its norm.`));
  made.classList.add("wide");
  return made;
}

// A table is sorted by the figure behind each cell; empty ones stay last.
function sort(heading) {
  const table = heading.closest("table"), column = heading.cellIndex;
  const up = heading.getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
  const key = (row) => row.cells[column].dataset.sort, numeric = !heading.classList.contains("text");
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [p, q] = [key(a), key(b)];
    if (p === "" || q === "") return (p === "") - (q === "");
    return sign * (numeric ? p - q : p.localeCompare(q));
  });
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  table.tBodies[0].append(...rows);
}

// A table that is wider than the page says so, and fades out at the side where more of it is.
function hint() {
  for (const table of document.querySelectorAll(".scroll")) {
    const hidden = table.scrollWidth - table.clientWidth;
    table.classList.toggle("more", hidden - table.scrollLeft > 1);
    table.classList.toggle("less", hidden > 1 && hidden - table.scrollLeft <= 1);
  }
}
for (const table of document.querySelectorAll(".scroll")) table.addEventListener("scroll", hint);
for (const heading of document.querySelectorAll("thead th"))
  heading.firstElementChild.addEventListener("click", () => sort(heading));
for (const select of document.querySelectorAll(".controls select"))
  select.addEventListener("change", () => { view[select.id] = select.value; paint(); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
let width = window.innerWidth, timer = 0; // a phone's address bar changes the height alone
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(() => { if (window.innerWidth !== width) { width = window.innerWidth; paint(); } }, 150);
});
const closed = []; // opened for the printer
window.addEventListener("beforeprint", () => {
  document.documentElement.classList.add("printing");
  for (const each of document.querySelectorAll("details:not([open])")) { each.open = true; closed.push(each); }
  paint();
});
window.addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  for (const each of closed.splice(0)) each.open = false;
  paint();
});
paint();
