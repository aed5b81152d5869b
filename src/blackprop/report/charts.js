// The charts: each draws what `view` selects of `report` as { data, layout }, or null where there is nothing to draw.
"use strict";
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "hexagon"];
const GLYPHS = "●■◆▲✖★⬢"; // the same, as text
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const faint = (colour, share) => colour + Math.round(255 * share).toString(16).padStart(2, "0");
const text = (s) => String(s).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
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
const label = (c, list) => text(named(c, list));
const short = (s) => text(s.length > 26 ? s.slice(0, 25) + "…" : s);
const own = (method) => place(method) + 1 + Math.floor(place(method) / 7);
const symbol = (c, list) => SYMBOLS[(twice(c, list) ? report.runs.indexOf(c.run) : own(c.method)) % SYMBOLS.length];
// The eighth method has the first one's colour again, and another dash and symbol.
const dash = (c) => ({ oracle: "dash", frozen: "dot" })[reference(c.method)] || (place(c.method) < 7 ? "solid" : "longdashdot");

function axis(title, more) {
  return { title: { text: title, standoff: 8 }, gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true, ...more };
}
// Powers of ten where the values span enough of them; a linear axis where they hardly differ.
function logarithmic(values) {
  const known = values.filter((v) => v > 0), span = Math.log10(Math.max(...known) / Math.min(...known));
  if (!(span > 0.3)) return { type: "linear", rangemode: "tozero", exponentformat: "power" };
  return { type: "log", exponentformat: "power", minexponent: 3, dtick: span > 1.5 ? Math.ceil(span / 6) : "D2" };
}
function layout(xaxis, yaxis, more) {
  return {
    xaxis, yaxis, height: 330, margin: { l: 58, r: 14, t: 10, b: 48 }, showlegend: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
    font: { color: css("--ink"), family: "system-ui, sans-serif", size: 13 },
    hoverlabel: { bgcolor: css("--card"), font: { color: css("--ink") }, bordercolor: css("--line"), align: "left" },
    ...more,
  };
}

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
  const x = view.scale === "log" ? logarithmic(all("x")) : { rangemode: "tozero" };
  const y = log ? logarithmic(all("y")) : share ? { tickformat: "~%" } : {};
  return { data, layout: layout(axis(ACROSS[view.across], x), axis(title, y)) };
}
function line(c, name, shown, { log, share, dashes }) {
  const { mean, error } = c.series[name];
  const xs = c[view.across], found = mean.map((m, k) => k).filter((k) => mean[k] !== null && xs[k] !== null && !(log && mean[k] <= 0));
  const x = found.map((k) => xs[k]), y = found.map((k) => mean[k]);
  const up = found.map((k) => mean[k] + (error[k] || 0));
  const down = found.map((k) => (log ? Math.max(mean[k] - (error[k] || 0), mean[k] / 10) : mean[k] - (error[k] || 0)));
  const ink = colour(c.method), number = (v) => (share ? (100 * v).toFixed(1) + " %" : plain(v));
  const band = { x: [...x, ...x.slice().reverse()], y: [...up, ...down.reverse()], fill: "toself", mode: "lines",
    fillcolor: faint(ink, 0.16), line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  const what = name.startsWith("rate/") ? " · " + text(name.slice(5)) : "";
  const said = found.map((k) => number(mean[k]) + (error[k] === null ? "" : " ± " + number(error[k])));
  const drawn = { x, y, name: label(c, shown) + what, mode: x.length > 1 && (x.length > 40 || (reference(c.method) && !twice(c, shown))) ? "lines" : "lines+markers",
    line: { color: ink, width: 2, dash: dashes ? dashes[name] : dash(c) },
    marker: { symbol: symbol(c, shown), size: 6, color: ink }, text: said,
    hovertemplate: `<b>${label(c, shown)}${what}</b><br>%{x:,} ${ACROSS[view.across]}<br>%{text}<extra></extra>` };
  return error.some((e) => e !== null) ? [band, drawn] : [drawn];
}

// A row for each device and method: a dot and its standard error.
function dots(figure, title, { share = false, log = false } = {}) {
  const all = report.results.filter((r) => r.task === view.task && r.figures[figure] && !view.hidden.has(r.method));
  const rows = all.filter((r) => !view.run || r.run === view.run);
  if (!rows.length) return null;
  const ticks = [], data = [], shapes = [];
  for (const device of new Set(rows.map((r) => r.device))) {
    ticks.push(`<b>${text(device)}</b>`);
    const own = rows.filter((r) => r.device === device), from = ticks.length - 0.4;
    for (const r of own) {
      data.push(dot(r, figure, ticks.length, share, rows));
      ticks.push(short(named(r, rows)));
    }
    for (const r of log ? [] : own.filter((each) => reference(each.method)))
      shapes.push({ type: "line", x0: r.figures[figure][0], x1: r.figures[figure][0], y0: from, y1: ticks.length - 0.6,
        line: { color: colour(r.method), width: 1, dash: dash(r) }, layer: "below" });
  }
  const x = axis(title, { nticks: 6, tickangle: 0, ...(log ? logarithmic(rows.map((r) => r.figures[figure][0])) : share ? { tickformat: "~%" } : {}) });
  const y = axis("", { tickvals: ticks.map((_, k) => k), ticktext: ticks, range: [ticks.length - 0.4, -0.6], zeroline: false });
  return { data, layout: layout(x, y, { shapes, height: 90 + 24 * ticks.length, margin: { l: 10, r: 20, t: 6, b: 48 } }) };
}
function dot(r, figure, at, share, rows) {
  const [mean, error] = r.figures[figure], number = (v) => (share ? (100 * v).toFixed(2) + " %" : plain(v));
  return { x: [mean], y: [at], mode: "markers", error_x: { type: "data", array: [error || 0], color: colour(r.method), visible: error !== null },
    marker: { size: 10, color: colour(r.method), symbol: symbol(r, rows) },
    hovertemplate: `<b>${label(r, rows)}</b> on ${text(r.device)}<br>${number(mean)}${error === null ? "" : " ± " + number(error)}, ` +
      `${r.seeds} seed${r.seeds > 1 ? "s" : ""}<extra></extra>` };
}

// What of the way from frozen to oracle a method goes, against what it takes.
function gap() {
  const rows = inView(report.results).filter((r) => r.figures.gap_closed && !reference(r.method));
  const drawn = rows.filter((r) => r.figures[view.overhead][0] > 0);
  if (!drawn.length) return null;
  drawn.sort((a, b) => a.figures[view.overhead][0] - b.figures[view.overhead][0]);
  const data = drawn.map((r, k) => {
    const [x] = r.figures[view.overhead], [y, error] = r.figures.gap_closed;
    return { x: [x], y: [y], mode: drawn.length > 6 ? "markers" : "markers+text", text: [short(named(r, rows))], textposition: k % 2 ? "bottom center" : "top center",
      error_y: { type: "data", array: [error || 0], visible: error !== null, color: colour(r.method) },
      marker: { size: 11, color: colour(r.method), symbol: symbol(r, rows) }, textfont: { color: colour(r.method) }, cliponaxis: false,
      hovertemplate: `<b>${label(r, rows)}</b><br>overhead ${plain(x)}<br>gap closed ${plain(y)}` +
        `${error === null ? "" : " ± " + plain(error)}<extra></extra>` };
  });
  const ends = [["oracle", 1, "dash"], ["frozen", 0, "dot"]];
  const at = drawn.map((r) => Math.log10(r.figures[view.overhead][0])), low = Math.min(...at), high = Math.max(...at);
  const closed = drawn.flatMap(({ figures: { gap_closed: [y, error] } }) => [y - (error || 0), y + (error || 0)]), margin = 0.4 + 0.1 * (high - low);
  const title = { row_overhead: "row overhead", programming_overhead: "programming overhead" }[view.overhead];
  return { data, layout: layout(
    axis(title, { type: "log", range: [low - margin, high + margin], dtick: high - low > 0.5 ? 1 : "D2" }),
    axis("gap closed", { range: [Math.min(-0.08, ...closed.map((y) => y - 0.15)), Math.max(1.2, ...closed.map((y) => y + 0.15))] }),
    { shapes: ends.map(([name, y, style]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, layer: "below",
        line: { color: css("--" + name), dash: style, width: 2 } })),
      annotations: ends.map(([name, y]) => ({ xref: "paper", x: 0.01, y, yanchor: y ? "top" : "bottom", xanchor: "left", text: name,
        showarrow: false, font: { color: css("--" + name) } })) }) };
}

function histogram(theta) {
  const bars = (when, ink, share) => ({ type: "bar", name: when, x: theta.middles, y: theta[when], width: theta.width,
    marker: { color: faint(ink, share), line: { width: 0 } }, hovertemplate: `${when}: %{y:.2%} at %{x:.3g}<extra></extra>` });
  return { data: [bars("before", css("--frozen"), 0.6), bars("after", css("--m0"), 0.6)],
    layout: layout(axis("θ"), axis("share of θ", { tickformat: "~%" }),
      { barmode: "overlay", bargap: 0, height: 390, showlegend: true, legend: { x: 1, y: 1, xanchor: "right" } }) };
}

function heatmap(matrix, largest) {
  const [height, width] = matrix.shape, raw = atob(matrix.bytes);
  const at = (i, j) => (((raw.charCodeAt(i * width + j) + 128) % 256) - 128) * (largest / 127);
  const z = Array.from({ length: height }, (_, i) => Array.from({ length: width }, (_, j) => at(i, j)));
  const bare = { showgrid: false, zeroline: false, ticks: "", showticklabels: false };
  return { data: [{ type: "heatmap", z, zmin: -largest, zmax: largest, showscale: false,
      colorscale: [[0, css("--low")], [0.5, css("--middle")], [1, css("--high")]],
      hovertemplate: "output %{y}, input %{x}: %{z:.3g}<extra></extra>" }],
    layout: layout(axis("", { ...bare, constrain: "domain" }), axis("", { ...bare, autorange: "reversed", scaleanchor: "x", constrain: "domain" }),
      { height: Math.max(60, Math.min(260, Math.round((280 * height) / width))), margin: { l: 4, r: 4, t: 4, b: 4 } }) };
}

function confusion(portrait) {
  const { confusion: counts, classes } = portrait, few = classes.length <= 20;
  const shares = counts.map((row) => row.map((n) => n / (row.reduce((a, b) => a + b, 0) || 1)));
  const names = classes.map(text), at = names.map((_, k) => k), ticks = few ? { tickvals: at, ticktext: names } : {};
  const writing = { text: counts, texttemplate: "%{text}", textfont: { size: 11, color: css("--ink") } };
  return { data: [{ type: "heatmap", z: shares, x: at, y: at, zmin: 0, zmax: 1, showscale: false, xgap: 1, ygap: 1,
      colorscale: [[0, css("--middle")], [1, css("--heat")]], customdata: counts, ...(few ? writing : {}),
      hovertemplate: "class %{y} answered as %{x}: %{customdata} (%{z:.1%} of the class)<extra></extra>" }],
    layout: layout(axis("answer", { ...ticks, showgrid: false, zeroline: false, constrain: "domain" }),
      axis("truth", { ...ticks, showgrid: false, zeroline: false, autorange: "reversed", scaleanchor: "x", constrain: "domain" }),
      { height: 390 }) };
}
