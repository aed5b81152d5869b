// Charts as SVG: `draw(place, traces, layout)`. A trace is `lines` or `markers` over x and y, `bars` over x, or a
// `heatmap` of z; axes are linear or logarithmic. All texts of a chart are of one font and size.
"use strict";
const draw = (() => {
  const FONT = 12, GAP = 6, FAMILY = "system-ui, sans-serif";
  const pen = document.createElement("canvas").getContext("2d");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const extent = (text, bold) => { pen.font = `${bold ? "600 " : ""}${FONT}px ${FAMILY}`; return pen.measureText(text).width; };
  const DASHES = { dash: "7 5", dot: "2 4", longdashdot: "10 4 2 4" };
  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const write = (x, y, text, more) => svg("text", { x, y, fill: css("--ink"), "dominant-baseline": "central", ...more }, text);

  // Numbers: as they are written, or as m·10ⁿ where some of an axis are too large or too small for that.
  const raised = (n) => String(n).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  function power(value) {
    const exponent = Math.floor(Math.log10(Math.abs(value)) + 1e-9), factor = Number((value / 10 ** exponent).toPrecision(3));
    return (factor === 1 ? "" : factor === -1 ? "−" : `${factor}·`.replace("-", "−")) + `10${raised(exponent)}`;
  }
  function written(values, percent) {
    if (percent) return values.map((v) => `${Number((100 * v).toPrecision(4))} %`.replace("-", "−"));
    const sizes = values.map(Math.abs).filter((v) => v > 0), plain = sizes.every((v) => v >= 1e-4 && v < 1e6);
    return values.map((v) => (v === 0 ? "0" : plain ? Number(v.toPrecision(6)).toLocaleString("en", { maximumSignificantDigits: 6 }).replace("-", "−") : power(v)));
  }

  // An axis: from the values on it, its range in its own coordinate (the logarithm, of a logarithmic one).
  function scale(axis, values) {
    const log = axis.type === "log", own = (v) => (log ? Math.log10(v) : v);
    const known = values.filter((v) => Number.isFinite(v) && (!log || v > 0)).map(own);
    let [low, high] = axis.range ?? [Math.min(...known), Math.max(...known)];
    if (!axis.range) {
      if (!known.length) [low, high] = [0, 1];
      if (!log && axis.tozero) { low = Math.min(0, low); high = Math.max(0, high); }
      const room = (high - low || Math.abs(high) || 1) * (axis.tight ? 0 : 0.05);
      low -= axis.tozero && low === 0 && !log ? 0 : room;
      high += room;
    }
    return { ...axis, log, low, high, at: (v) => (own(v) - low) / (high - low) };
  }
  // Of the steps within a power of ten, or over several of them, the finest that leaves room for the numbers.
  function decades(low, high, count) {
    const every = Math.max(1, Math.ceil((high - low) / count));
    for (const factors of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const found = [];
      for (let e = Math.floor(low); e <= high; e++)
        for (const f of e % every === 0 ? factors : [])
          if (Math.log10(f) + e >= low - 1e-9 && Math.log10(f) + e <= high + 1e-9) found.push(Number((f * 10 ** e).toPrecision(3)));
      if (found.length <= count + 1 && (every === 1 || factors.length === 1)) return found;
    }
    return [];
  }
  function ticks(axis, count) {
    if (axis.bare) return [];
    if (axis.tickvals) return axis.tickvals.map((at, k) => ({ at, ...(axis.ticktext[k].text ? axis.ticktext[k] : { text: axis.ticktext[k], bold: false }) }));
    const [low, high] = [Math.min(axis.low, axis.high), Math.max(axis.low, axis.high)];
    let found = axis.log ? decades(low, high, count) : [];
    if (found.length < 2) {
      const [from, to] = axis.log ? [10 ** low, 10 ** high] : [low, high], rough = (to - from) / count;
      const size = 10 ** Math.floor(Math.log10(rough)), step = size * [1, 2, 5, 10].find((f) => f * size >= rough * 0.999);
      found = [];
      for (let k = Math.ceil(from / step - 1e-9); k * step <= to + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
    }
    const texts = written(found, axis.percent);
    return found.map((at, k) => ({ at, text: texts[k] }));
  }

  // Every so many of them, so that their numbers stand apart; two at least.
  function thinned(all, place, free) {
    const apart = (some) => some.every((t, k) => !k || place(t) - place(some[k - 1]) > (extent(t.text) + extent(some[k - 1].text)) / 2 + 8);
    for (let step = 1; free && step < all.length - 1; step++) {
      const some = all.filter((_, k) => k % step === 0);
      if (apart(some)) return some;
    }
    return free && all.length > 2 ? [all[0], all[all.length - 1]] : all;
  }

  const polygon = (count, radius, turn, inner = radius) => {
    const corners = Array.from({ length: inner === radius ? count : 2 * count }, (_, k) => [k, inner === radius || k % 2 === 0 ? radius : inner]);
    return "M" + corners.map(([k, r]) => { const a = turn + (2 * Math.PI * k) / corners.length; return `${(r * Math.sin(a)).toFixed(2)},${(-r * Math.cos(a)).toFixed(2)}`; }).join("L") + "Z";
  };
  const SHAPES = {
    circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
    square: (r) => polygon(4, 1.25 * r, Math.PI / 4), diamond: (r) => polygon(4, 1.3 * r, 0),
    "triangle-up": (r) => polygon(3, 1.3 * r, 0), star: (r) => polygon(5, 1.4 * r, 0, 0.6 * r), hexagon: (r) => polygon(6, 1.15 * r, 0),
    x: (r) => { const a = 0.4 * r, b = 1.1 * r; return `M0,${-a}L${b - a},${-b}L${b},${a - b}L${a},0L${b},${b - a}L${b - a},${b}L0,${a}L${a - b},${b}L${-b},${b - a}L${-a},0L${-b},${a - b}L${a - b},${-b}Z`; },
  };

  function rgb(colour) {
    const hex = colour.length === 4 ? colour.replace(/[0-9a-f]/gi, "$&$&") : colour;
    return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  }
  function shade(stops, share) {
    const k = Math.max(0, stops.findLastIndex(([at]) => at <= share)), [from, to] = [stops[k], stops[Math.min(k + 1, stops.length - 1)]];
    const part = to[0] > from[0] ? Math.min(1, (share - from[0]) / (to[0] - from[0])) : 0;
    const [a, b] = [rgb(from[1]), rgb(to[1])];
    return a.map((value, i) => Math.round(value + part * (b[i] - value)));
  }
  function picture({ z, low, high, stops }) {
    const canvas = Object.assign(document.createElement("canvas"), { width: z[0].length, height: z.length });
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    z.forEach((row, i) => row.forEach((v, j) => image.data.set([...shade(stops, (v - low) / (high - low)), 255], 4 * (i * row.length + j))));
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  }

  return function (place, data, layout) {
    const width = Math.max(120, place.clientWidth), height = layout.height, heat = data.find((t) => t.type === "heatmap");
    const values = (name, error) => data.flatMap((t) => (t[name] ?? []).flatMap((v, k) => (t[error]?.[k] ? [v - t[error][k], v + t[error][k]] : [v])));
    const halves = data.flatMap((t) => (t.type === "bars" ? t.x.flatMap((v) => [v - t.width / 2, v + t.width / 2]) : []));
    const zero = data.some((t) => t.type === "bars") ? [0] : [];
    const cells = heat ? { x: { range: [-0.5, heat.z[0].length - 0.5] }, y: { range: [heat.z.length - 0.5, -0.5] } } : {};
    const xaxis = scale({ ...layout.xaxis, ...cells.x }, [...values("x", "error_x"), ...halves]);
    const yaxis = scale({ ...layout.yaxis, ...cells.y }, [...values("y", "error_y"), ...zero]);
    // What room the numbers and titles need, then what is left for the axes.
    const up = ticks(yaxis, Math.max(2, height / 55)), most = Math.max(0, ...up.map((t) => extent(t.text, t.bold)));
    const left = (up.length ? most + 2 * GAP : 4) + (yaxis.title ? FONT + 8 : 0), right = 14, top = 10;
    const bottom = xaxis.bare ? 4 : FONT + 2 * GAP + (xaxis.title ? FONT + 8 : 0);
    let box = { x: left, y: top, w: width - left - right, h: height - top - bottom };
    if (heat) { // cells are squares
      const side = Math.min(box.w / heat.z[0].length, box.h / heat.z.length), [w, h] = [side * heat.z[0].length, side * heat.z.length];
      box = { x: box.x + (box.w - w) / 2, y: box.y + (box.h - h) / 2, w, h };
    }
    const X = (v) => box.x + xaxis.at(v) * box.w, Y = (v) => box.y + (1 - yaxis.at(v)) * box.h;
    const across = thinned(ticks(xaxis, Math.max(4, box.w / 60)), (t) => X(t.at), !xaxis.tickvals);
    const clip = `clip-${place.id || Math.random().toString(36).slice(2)}`, points = [];
    const canvas = svg("svg", { class: "main-svg", width, height, viewBox: `0 0 ${width} ${height}`, "font-size": FONT, "font-family": FAMILY });
    canvas.append(svg("clipPath", { id: clip }, svg("rect", { x: box.x - 1, y: box.y - 1, width: Math.max(0, box.w) + 2, height: Math.max(0, box.h) + 2 })));

    // The grid, its numbers, the titles.
    const axes = svg("g", {});
    canvas.append(axes);
    const line = (x1, y1, x2, y2, more) => svg("line", { x1, y1, x2, y2, stroke: css("--line"), ...more });
    for (const tick of across) {
      if (!heat) canvas.append(line(X(tick.at), box.y, X(tick.at), box.y + box.h));
      const turned = heat && extent(tick.text) > box.w / heat.z[0].length, x = X(tick.at), y = box.y + box.h + GAP + FONT / 2 + 2;
      axes.append(svg("g", { class: "xtick" }, turned
        ? write(x, y, tick.text.length > 9 ? tick.text.slice(0, 8) + "…" : tick.text, { "text-anchor": "end", transform: `rotate(-40 ${x} ${y})` })
        : write(x, y, tick.text, { "text-anchor": "middle" })));
    }
    for (const tick of up) {
      if (!heat && !yaxis.nogrid) canvas.append(line(box.x, Y(tick.at), box.x + box.w, Y(tick.at)));
      axes.append(svg("g", { class: "ytick" }, write(box.x - GAP, Y(tick.at), tick.text, { "text-anchor": "end", "font-weight": tick.bold ? 600 : undefined })));
    }
    if (xaxis.title) canvas.append(write(box.x + box.w / 2, height - FONT / 2 - 3, xaxis.title, { "text-anchor": "middle", class: "title" }));
    if (yaxis.title) canvas.append(write(0, 0, yaxis.title, { "text-anchor": "middle", class: "title", transform: `translate(${FONT / 2 + 3} ${box.y + box.h / 2}) rotate(-90)` }));
    for (const s of layout.lines ?? []) {
      const [x1, x2] = s.x ? s.x.map(X) : [box.x, box.x + box.w], [y1, y2] = s.y.map(Y);
      canvas.append(line(x1, y1, x2, y2, { stroke: s.colour, "stroke-width": s.width ?? 1, "stroke-dasharray": DASHES[s.dash] }));
      if (s.text) canvas.append(write(x1 + 4, y1 + (s.below ? FONT : -FONT) * 0.75, s.text, { fill: s.colour }));
    }

    const inside = svg("g", { "clip-path": `url(#${clip})` }), above = svg("g", {});
    canvas.append(inside, above);
    const path = (xs, ys) => xs.map((x, k) => `${k ? "L" : "M"}${X(x).toFixed(1)},${Y(ys[k]).toFixed(1)}`).join("");
    for (const t of data) {
      if (t.type === "heatmap") {
        inside.append(svg("image", { x: box.x, y: box.y, width: box.w, height: box.h, href: picture(t), preserveAspectRatio: "none", style: "image-rendering: pixelated" }));
        if (t.counts) t.counts.forEach((row, i) => row.forEach((n, j) => inside.append(write(X(j), Y(i), n, { "text-anchor": "middle", "font-size": 11 }))));
      } else if (t.type === "bars")
        t.x.forEach((x, k) => {
          inside.append(svg("rect", { x: X(x - t.width / 2), y: Y(t.y[k]), width: Math.max(0.5, X(x + t.width / 2) - X(x - t.width / 2)), height: Math.max(0, Y(yaxis.log ? 10 ** yaxis.low : 0) - Y(t.y[k])), fill: t.colour }));
          points.push({ x: X(x), y: Y(t.y[k]), said: t.hover?.[k] });
        });
      else {
        if (t.fill) inside.append(svg("path", { d: path(t.x, t.y) + "Z", fill: t.fill, stroke: "none" }));
        if (t.line) inside.append(svg("path", { d: path(t.x, t.y), fill: "none", stroke: t.line.color, "stroke-width": t.line.width ?? 2, "stroke-dasharray": DASHES[t.line.dash], "stroke-linejoin": "round" }));
        t.x.forEach((x, k) => {
          const [px, py] = [X(x), Y(t.y[k])], [ex, ey] = [t.error_x?.[k], t.error_y?.[k]], ink = t.marker?.color;
          if (ex) above.append(line(X(x - ex), py, X(x + ex), py, { stroke: ink, "stroke-width": 2 }));
          if (ey) above.append(line(px, Y(t.y[k] - ey), px, Y(t.y[k] + ey), { stroke: ink, "stroke-width": 2 }));
          if (t.marker?.size) above.append(svg("path", { d: SHAPES[t.marker.symbol ?? "circle"](t.marker.size / 2), transform: `translate(${px.toFixed(1)} ${py.toFixed(1)})`, fill: ink }));
          if (t.text?.[k]) {
            const half = extent(t.text[k]) / 2, x = Math.min(Math.max(px, box.x + half), box.x + box.w - half);
            above.append(write(x, py + (t.below ? 1 : -1) * 1.3 * FONT, t.text[k], { fill: ink, "text-anchor": "middle" }));
          }
          if (t.hover) points.push({ x: px, y: py, said: t.hover[k] });
        });
      }
    }
    const named = data.filter((t) => t.legend), room = Math.max(0, ...named.map((t) => extent(t.legend)));
    named.forEach((t, k) => canvas.append(
      svg("rect", { x: box.x + box.w - room - 22, y: box.y + 4 + 18 * k, width: 12, height: 12, fill: t.colour }),
      write(box.x + box.w - room - 5, box.y + 10 + 18 * k, t.legend)));
    place.replaceChildren(canvas);
    Object.assign(place, { data, layout });

    // What is nearest to the pointer, or to the finger.
    canvas.addEventListener("pointerleave", () => tell(null));
    for (const event of ["pointermove", "pointerdown"]) canvas.addEventListener(event, (e) => {
      const here = canvas.getBoundingClientRect(), [x, y] = [e.clientX - here.left, e.clientY - here.top];
      if (heat) {
        const [i, j] = [Math.floor(((y - box.y) / box.h) * heat.z.length), Math.floor(((x - box.x) / box.w) * heat.z[0].length)];
        return tell(heat.z[i]?.[j] === undefined ? null : heat.said(i, j), e);
      }
      const far = (p) => (p.x - x) ** 2 + (p.y - y) ** 2, near = points.reduce((best, p) => (!best || far(p) < far(best) ? p : best), null);
      tell(near && far(near) < 900 ? near.said : null, e);
    });
  };

  function tell(lines, event) {
    let tip = document.getElementById("tip");
    if (!tip) document.body.append((tip = Object.assign(document.createElement("div"), { id: "tip" })));
    tip.hidden = !lines;
    if (!lines) return;
    tip.replaceChildren(...lines.map((each, k) => Object.assign(document.createElement(k || lines.length === 1 ? "div" : "b"), { textContent: each })));
    const { offsetWidth: w, offsetHeight: h } = tip;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - w - 4)) + "px";
    tip.style.top = (event.clientY + h + 20 < innerHeight ? event.clientY + 14 : event.clientY - h - 10) + "px";
  }
})();
