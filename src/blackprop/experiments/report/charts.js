// The charts: each draws what `view` selects of `report` as { data, layout }, or null where there is nothing to draw.
"use strict";
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "hexagon"];
const GLYPHS = "●■◆▲✖★⬢"; // the same, as text
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const faint = (colour, share) => colour + Math.round(255 * share).toString(16).padStart(2, "0");
const plain = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toLocaleString("en"));
const reference = (method) => report.methods[method].reference;
const colour = (method) => css("--" + (reference(method) || "m" + (place(method) % 7)));
const place = (method) => report.methods[method].index;
const task = () => report.tasks[view.task];
const percent = () => task().metric === "accuracy";

function inView(list) {
  const here = list.filter((c) => c.task === view.task && c.device === view.device);
  const lacks = (c) => !here.some((o) => o.run === view.run && reference(o.method) === reference(c.method));
  const borrowed = (c) => reference(c.method) && lacks(c); // another run's reference is better than none
  return here.filter((c) => (!view.run || c.run === view.run || borrowed(c)) && !view.hidden.has(c.method));
}
// A method that several of the runs shown have is told apart by its run's name and symbol.
const twice = (c, list) => list.some((o) => o.method === c.method && o.device === c.device && o.run !== c.run);
const named = (c, list) => c.method + (twice(c, list) ? " · " + c.run : "");
const short = (s) => (s.length > 26 ? s.slice(0, 25) + "…" : s);
const own = (method) => place(method) + 1 + Math.floor(place(method) / 7);
const symbol = (c, list) => SYMBOLS[(twice(c, list) ? report.runs.indexOf(c.run) : own(c.method)) % SYMBOLS.length];
// The eighth method has the first one's colour again, and another dash and symbol.
const dash = (c) => ({ oracle: "dash", frozen: "dot" })[reference(c.method)] || (place(c.method) < 7 ? "solid" : "longdashdot");

const axis = (title, more) => ({ title, ...more });
// Powers of ten where the values span enough of them; a linear axis where they hardly differ.
function logarithmic(values) {
  const known = values.filter((v) => v > 0), span = Math.log10(Math.max(...known) / Math.min(...known));
  return span > 0.3 ? { type: "log" } : { tozero: true };
}
const layout = (xaxis, yaxis, more) => ({ xaxis, yaxis, height: 330, ...more });

// Lines over steps, rows or lab time: the mean over the seeds in a band of its standard error.
const ACROSS = { steps: "steps", rows: "rows sent in training", lab: "estimated lab time (s)" };
function lines(series, title, { log = false, share = false, dashes = null } = {}) {
  const shown = inView(report.curves).filter((c) => series.some((name) => c.series[name]));
  if (!shown.length) return null;
  const data = [];
  const byReference = shown.slice().sort((a, b) => !!reference(a.method) - !!reference(b.method)); // on top, in dashes
  for (const c of byReference)
    for (const name of series.filter((each) => c.series[each])) data.push(...line(c, name, shown, { log, share, dashes }));
  const drawn = data.filter((trace) => trace.name), all = (name) => drawn.flatMap((trace) => trace[name]);
  const x = view.scale === "log" ? logarithmic(all("x")) : { tozero: true };
  const y = log ? logarithmic(all("y")) : { percent: share };
  return { data, layout: layout(axis(ACROSS[view.across], x), axis(title, y)) };
}
function line(c, name, shown, { log, share, dashes }) {
  const { mean, error } = c.series[name];
  const xs = c[view.across], found = mean.map((m, k) => k).filter((k) => mean[k] !== null && xs[k] !== null && !(log && mean[k] <= 0));
  const x = found.map((k) => xs[k]), y = found.map((k) => mean[k]);
  const up = found.map((k) => mean[k] + (error[k] || 0));
  const down = found.map((k) => (log ? Math.max(mean[k] - (error[k] || 0), mean[k] / 10) : mean[k] - (error[k] || 0)));
  const ink = colour(c.method), number = (v) => (share ? (100 * v).toFixed(1) + " %" : plain(v));
  const band = { x: [...x, ...x.slice().reverse()], y: [...up, ...down.reverse()], fill: faint(ink, 0.16) };
  const what = name.startsWith("rate/") ? " · " + name.slice(5) : "", called = named(c, shown) + what;
  const said = found.map((k) => number(mean[k]) + (error[k] === null ? "" : " ± " + number(error[k])));
  const dots = !(x.length > 1 && (x.length > 40 || (reference(c.method) && !twice(c, shown))));
  const drawn = { x, y, name: called, line: { color: ink, dash: dashes ? dashes[name] : dash(c) },
    marker: { symbol: symbol(c, shown), size: dots ? 7 : 0, color: ink },
    hover: x.map((at, k) => [called, `${plain(at)} ${ACROSS[view.across]}`, said[k]]) };
  return error.some((e) => e !== null) ? [band, drawn] : [drawn];
}

// A row for each device and method: a dot and its standard error.
function dots(figure, title, { share = false, log = false } = {}) {
  const all = report.results.filter((r) => r.task === view.task && r.figures[figure] && !view.hidden.has(r.method));
  const rows = all.filter((r) => !view.run || r.run === view.run);
  if (!rows.length) return null;
  const ticks = [], data = [], marks = [];
  for (const device of new Set(rows.map((r) => r.device))) {
    ticks.push({ text: short(device), bold: true });
    const own = rows.filter((r) => r.device === device), from = ticks.length - 0.4;
    for (const r of own) {
      data.push(dot(r, figure, ticks.length, share, rows));
      ticks.push(short(named(r, rows)));
    }
    for (const r of log ? [] : own.filter((each) => reference(each.method)))
      marks.push({ x: Array(2).fill(r.figures[figure][0]), y: [from, ticks.length - 0.6], colour: colour(r.method), dash: dash(r) });
  }
  const x = axis(title, log ? logarithmic(rows.map((r) => r.figures[figure][0])) : { percent: share });
  const y = { tickvals: ticks.map((_, k) => k), ticktext: ticks, range: [ticks.length - 0.4, -0.6], nogrid: true };
  return { data, layout: layout(x, y, { lines: marks, height: 60 + 24 * ticks.length }) };
}
function dot(r, figure, at, share, rows) {
  const [mean, error] = r.figures[figure], number = (v) => (share ? (100 * v).toFixed(2) + " %" : plain(v));
  const seeds = `${r.seeds} seed${r.seeds > 1 ? "s" : ""}`;
  return { x: [mean], y: [at], name: named(r, rows), error_x: [error || 0],
    marker: { size: 10, color: colour(r.method), symbol: symbol(r, rows) },
    hover: [[`${named(r, rows)} on ${r.device}`, number(mean) + (error === null ? "" : " ± " + number(error)), seeds]] };
}

// What of the way from frozen to oracle a method goes, against what it takes.
function gap() {
  const rows = inView(report.results).filter((r) => r.figures.gap_closed && !reference(r.method));
  const drawn = rows.filter((r) => r.figures[view.overhead][0] > 0);
  if (!drawn.length) return null;
  drawn.sort((a, b) => a.figures[view.overhead][0] - b.figures[view.overhead][0]);
  const data = drawn.map((r, k) => {
    const [x] = r.figures[view.overhead], [y, error] = r.figures.gap_closed;
    return { x: [x], y: [y], name: named(r, rows), text: drawn.length > 6 ? [] : [short(named(r, rows))], below: k % 2 === 1,
      error_y: [error || 0], marker: { size: 11, color: colour(r.method), symbol: symbol(r, rows) },
      hover: [[named(r, rows), "overhead " + plain(x), "gap closed " + plain(y) + (error === null ? "" : " ± " + plain(error))]] };
  });
  const at = drawn.map((r) => Math.log10(r.figures[view.overhead][0])), low = Math.min(...at), high = Math.max(...at);
  const closed = drawn.flatMap(({ figures: { gap_closed: [y, error] } }) => [y - (error || 0), y + (error || 0)]), margin = 0.4 + 0.1 * (high - low);
  const title = { row_overhead: "row overhead", programming_overhead: "programming overhead" }[view.overhead];
  const ends = [["oracle", 1, "dash"], ["frozen", 0, "dot"]].map(([name, y, style]) =>
    ({ y: [y, y], colour: css("--" + name), dash: style, width: 2, text: name, below: !!y }));
  return { data, layout: layout(
    axis(title, { type: "log", range: [low - margin, high + margin] }),
    axis("gap closed", { range: [Math.min(-0.08, ...closed.map((y) => y - 0.15)), Math.max(1.2, ...closed.map((y) => y + 0.15))] }),
    { lines: ends }) };
}

function histogram(theta) {
  const bars = (when, ink) => ({ type: "bars", legend: when, x: theta.middles, y: theta[when], width: theta.width, colour: faint(ink, 0.6),
    hover: theta[when].map((share, k) => [`${when}: ${(100 * share).toFixed(2)} % at ${plain(theta.middles[k])}`]) });
  return { data: [bars("before", css("--frozen")), bars("after", css("--m0"))],
    layout: layout(axis("θ"), axis("share of θ", { percent: true, tozero: true }), { height: 390 }) };
}

function heatmap(matrix, largest) {
  const [height, width] = matrix.shape, raw = atob(matrix.bytes);
  const at = (i, j) => (((raw.charCodeAt(i * width + j) + 128) % 256) - 128) * (largest / 127);
  const z = Array.from({ length: height }, (_, i) => Array.from({ length: width }, (_, j) => at(i, j)));
  return { data: [{ type: "heatmap", z, low: -largest, high: largest, stops: [[0, css("--low")], [0.5, css("--middle")], [1, css("--high")]],
      said: (i, j) => [`output ${i}, input ${j}: ${plain(z[i][j])}`] }],
    layout: layout({ bare: true }, { bare: true }, { height: Math.max(60, Math.min(260, Math.round((280 * height) / width))) }) };
}

function confusion(portrait) {
  const { confusion: counts, classes } = portrait, few = classes.length <= 20;
  const shares = counts.map((row) => row.map((n) => n / (row.reduce((a, b) => a + b, 0) || 1)));
  const ticks = few ? { tickvals: classes.map((_, k) => k), ticktext: classes.map((name) => (name.length > 12 ? name.slice(0, 11) + "…" : name)) } : { bare: false };
  return { data: [{ type: "heatmap", z: shares, low: 0, high: 1, counts: few ? counts : null, stops: [[0, css("--middle")], [1, css("--heat")]],
      said: (i, j) => [`class ${classes[i]} answered as ${classes[j]}`, `${counts[i][j]} (${(100 * shares[i][j]).toFixed(1)} % of the class)`] }],
    layout: layout(axis("answer", ticks), axis("truth", ticks), { height: 390 }) };
}
