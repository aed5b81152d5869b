// The live page: asks for the data again and again, and draws the cards of the runs and the report's charts.
{
  const EVERY = 2000, COLUMNS = { signal: "signal", residual: "residual", noise: "noise", drift: "drift",
    recalibrations: "recalibrated", at_limit: "at limits" };
  let tag = "", seen = 0, waiting = 0;

  const text = (tagName, content, attributes = {}) => element(tagName, attributes, String(content));
  function bar(share, label) {
    const inner = element("i");
    inner.style.width = `${100 * share}%`;
    return element("div", { class: share > 0.9 ? "bar full" : "bar", role: "progressbar", "aria-label": label,
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * share) }, inner);
  }
  function tile({ label, value, note, share }) {
    const made = element("div", {}, text("p", label), text("p", value, { class: "value" }));
    if (share !== null) made.append(bar(share, label));
    if (note) made.append(text("p", note));
    return made;
  }
  function layers(found) {
    const names = Object.keys(found), shown = Object.keys(COLUMNS).filter((c) => names.some((n) => found[n][c] !== null));
    if (!names.length || !shown.length) return [];
    const figure = (c, v) => (v === null ? "–" : c === "at_limit" ? `${(100 * v).toPrecision(3)} %` : v.toLocaleString("en", { maximumSignificantDigits: 3 }));
    const head = element("tr", {}, text("th", "layer", { scope: "col" }), ...shown.map((c) => text("th", COLUMNS[c], { scope: "col" })));
    const rows = names.map((n) => element("tr", {}, text("th", n || "the layer", { scope: "row" }), ...shown.map((c) => text("td", figure(c, found[n][c])))));
    return [element("div", { class: "scroll numbers", tabindex: 0, role: "region", "aria-label": "health of the layers" },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)))];
  }
  const code = (said) => said.split("`").map((part, k) => (k % 2 ? text("code", part) : part));
  function told(run) {
    const advice = run.advice.map((each) => element("li", {}, ...code(each.told), element("small", {}, ...code(each.todo))));
    const warnings = run.warnings.map((each) => element("li", {}, ...code(each.message ?? ""), text("small", `${each.kind}, step ${each.step}`)));
    return advice.length + warnings.length ? [element("ul", { class: "advice", "aria-label": "warnings" }, ...advice, ...warnings)] : [];
  }
  function card(run) {
    const [finished, trials] = run.trials, kind = run.state.split(" ")[0];
    const made = element("article", { class: "card run", "data-state": run.state },
      element("h3", {}, run.name, text("span", run.state, { class: `state ${kind}` })));
    if (run.reason && run.state !== "failed") made.append(text("p", run.reason));
    const place = [run.trial, trials > 1 ? `${finished} of ${trials} trials finished` : ""].filter(Boolean).join(" · ");
    if (place) made.append(text("p", place));
    if (run.step !== null && run.steps) {
      made.append(text("p", `step ${run.step.toLocaleString("en")} of ${run.steps.toLocaleString("en")}`));
      made.append(bar(Math.min(1, run.step / run.steps), "steps"));
    } else if (run.step !== null) made.append(text("p", `step ${run.step.toLocaleString("en")}`));
    made.append(element("div", { class: "tiles" }, ...run.tiles.map(tile)), ...told(run), ...layers(run.layers));
    return made;
  }
  function age() {
    if ($("link").classList.contains("lost")) return;
    const last = Math.max(0, ...report.now.map((run) => run.updated || 0)), seconds = Math.max(0, Math.round(Date.now() / 1000 - last));
    const said = !last ? "no record yet" : seconds < 90 ? `last record ${seconds} s ago` : `last record at ${new Date(1000 * last).toLocaleString()}`;
    if ($("link").textContent !== said) $("link").textContent = said;
  }
  function lost() {
    $("link").classList.add("lost");
    $("link").textContent = seen ? `The server has ended. The page shows the state of ${new Date(seen).toLocaleTimeString()}.` : "The server does not answer.";
  }
  async function ask() {
    clearTimeout(waiting);
    try {
      const answer = await fetch("data.json" + location.search, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag") ?? "";
        report = await answer.json();
        const held = document.activeElement?.closest?.("#now") ? null : report.now; // a reader's place in a table is kept
        if (held) $("now").replaceChildren(...held.map(card));
        paint();
      } else if (answer.status !== 304) throw new Error(answer.statusText);
      seen = Date.now();
      $("link").classList.remove("lost");
    } catch { lost(); }
    age();
    waiting = setTimeout(ask, document.hidden ? 10 * EVERY : EVERY);
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  setInterval(age, 1000);
  ask();
}
