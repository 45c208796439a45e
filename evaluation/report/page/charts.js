// Interactive figures: what is shown follows one state, shared by all figures. Drawn by Plotly.
"use strict";

const Charts = (() => {
  const state = { axis: "bpp", log: true, intervals: true, scaled: true, panels: true, hidden: new Set(), hiddenHeads: new Set() };
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const coarse = matchMedia("(pointer: coarse)").matches;
  const narrow = matchMedia("(max-width: 600px)");
  const night = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : night.matches);

  // Plotly reads a small part of HTML in texts: names must stay what they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const number = (value, digits) => value.toFixed(digits).replace("-", "−");

  function colour(codec) {
    const look = page.looks[codec];
    return dark() ? look.dark : look.light;
  }

  function shown(figure) {
    const lines = figure.lines.filter((line) => line.axis === state.axis && !state.hidden.has(line.codec)
      && !(line.head !== null && state.hiddenHeads.has(line.head)) && (state.scaled || line.ladder !== "scaled"));
    // Plain ladders on top: where both share a point, it is theirs that answers a hover.
    return lines.sort((a, b) => (a.ladder === "plain") - (b.ladder === "plain"));
  }

  function label(figure, line, i) {
    const who = [line.head === null ? null : `heads: ${line.head}`, line.seed === null ? null : `seed ${line.seed}`,
      line.ladder === "scaled" ? "best of all down-scalings" : null].filter(Boolean).map(plain).join(" · ");
    const at = line.notes[i] ? `<br>${plain(line.notes[i])}` : "";
    const digits = figure.digits;
    const between = line.intervals[i] ? ` [${number(line.intervals[i][0], digits)}, ${number(line.intervals[i][1], digits)}]` : "";
    return `<b>${plain(line.codec)}</b>${who ? `<br>${who}` : ""}${at}<br>${number(line.x[i], 4)} bpp`
      + `<br>${plain(figure.short)} <b>${number(line.y[i], digits)}</b>${between}`;
  }

  function trace(figure, line) {
    const scaled = line.ladder === "scaled", hue = colour(line.codec);
    const one = line.x.length === 1;
    const bars = state.intervals && !scaled && line.intervals.some(Boolean);
    const off = (side) => line.intervals.map((range, i) => (range ? Math.max(0, side * (range[side < 0 ? 0 : 1] - line.y[i])) : 0));
    return {
      x: line.x, y: line.y, mode: one ? "markers" : "lines+markers", name: plain(line.codec), opacity: scaled ? 0.75 : 1,
      line: { color: hue, width: scaled ? 1.2 : 2, dash: page.dashes[line.head ?? ""] },
      marker: { symbol: page.looks[line.codec].marker + (scaled ? "-open" : ""), size: scaled ? 7 : 8, color: hue },
      error_y: { visible: bars, type: "data", symmetric: false, array: off(1), arrayminus: off(-1), thickness: 1, width: 0, color: hue + "88" },
      hovertemplate: "%{text}<extra></extra>", text: line.x.map((_, i) => label(figure, line, i)),
    };
  }

  // Heads side by side, or below one another where the screen is narrow; one panel for all otherwise.
  function panelsOf(figure) {
    const heads = figure.heads.filter((head) => head === null || !state.hiddenHeads.has(head));
    return state.panels && heads.length > 1 ? heads : [undefined];
  }

  function boundTraces(figure, heads, ends) {
    return figure.bounds.filter((bound) => heads.includes(bound.head)).map((bound) => {
      const who = bound.head === null ? "" : `, heads: ${plain(bound.head)}`;
      const text = `uncompressed${who}<br>${plain(figure.short)} <b>${number(bound.value, figure.digits)}</b>`;
      return { x: ends, y: [bound.value, bound.value], mode: "lines", line: { color: inks().bound, width: 1.3, dash: "8px,5px" },
        hovertemplate: "%{text}<extra></extra>", text: [text, text] };
    });
  }

  function inks() {
    return dark() ? { ink: "#e7e8ea", faint: "#9da3ab", grid: "#2c3036", bound: "#b9bec5", panel: "#24272c" }
      : { ink: "#1c1e21", faint: "#5f646c", grid: "#e6e7ea", bound: "#55595f", panel: "#ffffff" };
  }

  const steps = [[600, [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]], [230, [1, 1.5, 2, 3, 5, 7]], [105, [1, 2, 5]], [-Infinity, [1, 3]]];

  // Whole numbers of the rate, as many as have room: Plotly's own choice writes them into one another.
  function logTicks(ends, width) {
    const decades = Math.log10(ends[1] / ends[0]) || 2;
    const [, digits] = steps.find(([room]) => width / decades > room);
    const values = [-4, -3, -2, -1, 0, 1, 2].flatMap((power) => digits.map((digit) => Number((digit * 10 ** power).toPrecision(2))));
    return { tickvals: values, ticktext: values.map(String) };
  }

  function ticksOfZoom(place) {
    const names = Object.keys(place.layout).filter((key) => /^xaxis\d*$/.test(key));
    const { type, range } = place.layout.xaxis;
    if (type !== "log" || !range) return;
    const width = place.clientWidth / (place.dataset.columns || 1) - 30;
    const { tickvals, ticktext } = logTicks(range.map((end) => 10 ** end), width);
    Plotly.relayout(place, Object.fromEntries(names.flatMap((key) => [[`${key}.tickvals`, tickvals], [`${key}.ticktext`, ticktext]])));
  }

  function draw(figure) {
    const place = document.getElementById(`chart-${figure.key}`);
    // On paper the still picture stands in its place; printing changes the media that this listens to.
    if (!place.clientWidth) return;
    const { ink, faint, grid, panel } = inks();
    const lines = shown(figure), panels = panelsOf(figure), stacked = narrow.matches, count = panels.length;
    const columns = stacked ? 1 : count, isNew = !place.data;
    place.dataset.columns = columns;
    const xs = lines.flatMap((line) => line.x);
    const ends = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 0];
    const axis = { gridcolor: grid, linecolor: faint, tickcolor: faint, ticks: "outside", ticklen: 4, zeroline: false, showline: true };
    const name = state.axis === "bpp" ? figure.x_label : figure.x_label_payload;
    const layout = {
      margin: { l: 60, r: 12, t: count > 1 ? 24 : 8, b: 48 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink }, annotations: [],
      hovermode: "closest", hoverdistance: 24, dragmode: coarse ? false : "zoom",
      hoverlabel: { bgcolor: panel, bordercolor: faint, font: { color: ink, size: 12.5, family: getComputedStyle(document.body).fontFamily }, align: "left" },
    };
    const traces = [];
    const note = (x, y, text, more) => layout.annotations.push({ x, y, text, showarrow: false, font: { size: 11.5, color: faint }, ...more });
    panels.forEach((head, i) => {
      const id = i ? i + 1 : "", gap = stacked ? 0.09 : 0.03, size = (1 - gap * (count - 1)) / count, start = i * (size + gap);
      const span = [start, start + size], here = head === undefined ? lines : lines.filter((line) => line.head === head);
      const heads = head === undefined ? figure.heads.filter((other) => !state.hiddenHeads.has(other)) : [head];
      const bounds = xs.length ? boundTraces(figure, heads, ends) : [];
      const axes = { xaxis: `x${id}`, yaxis: stacked ? `y${id}` : "y" };
      traces.push(...[...bounds, ...here.map((line) => trace(figure, line))].map((one) => ({ ...one, ...axes })));
      layout[`xaxis${id}`] = { ...axis, type: state.log ? "log" : "linear", tickformat: "~g", rangemode: state.log ? "normal" : "tozero",
        tickfont: { size: 11 }, tickmode: state.log ? "array" : "auto", ...(state.log ? logTicks(ends, (place.clientWidth - 70) / columns) : {}), domain: stacked ? [0, 1] : span,
        anchor: axes.yaxis, matches: i ? "x" : undefined, uirevision: `${state.log}${state.axis}${count}`,
        title: { text: !stacked || i === count - 1 ? plain(name) : "", standoff: 6 } };
      if (stacked || !i) layout[`yaxis${stacked ? id : ""}`] = { ...axis, title: { text: plain(figure.y_label), standoff: 6 }, uirevision: `${count}`,
        domain: stacked ? [1 - span[1], 1 - span[0]] : [0, 1], anchor: axes.xaxis, matches: stacked && i ? "y" : undefined };
      if (head !== undefined) note(stacked ? 0 : span[0], stacked ? 1 - span[0] : 1, `heads: <b>${plain(head)}</b>`,
        { xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", font: { size: 12.5, color: ink } });
      bounds.forEach((bound, k) => note(0.01 + 0.3 * (k % 3), bound.y[0], bounds.length > 1 && !k ? "uncompressed, by head" : bounds.length > 1 ? "" : "uncompressed",
        { xref: `${axes.xaxis} domain`, yref: axes.yaxis, xanchor: "left", yanchor: "bottom" }));
    });
    if (!lines.length) note(0.5, 0.5, "Nothing to show: every curve is switched off.", { xref: "paper", yref: "paper" });
    layout.annotations = layout.annotations.filter((one) => one.text);
    Plotly.react(place, traces, layout, { displaylogo: false, showTips: false, responsive: true, displayModeBar: coarse ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], doubleClick: "reset",
      toImageButtonOptions: { format: "svg", filename: figure.key } });
    if (isNew) place.on("plotly_relayout", (change) => Object.keys(change).some((key) => /range/.test(key)) && ticksOfZoom(place));
    else if (place.layout.xaxis.autorange === false) ticksOfZoom(place);
  }

  const drawAll = () => page.figures.forEach(draw);

  function set(change) {
    Object.assign(state, change);
    document.documentElement.dataset.axis = state.axis;
    for (const button of document.querySelectorAll("[data-set-axis]")) button.setAttribute("aria-pressed", button.dataset.setAxis === state.axis);
    for (const box of document.querySelectorAll("[data-switch]")) box.checked = state[box.dataset.switch];
    drawAll();
  }

  function hide(attribute, hidden, names) {
    hidden.clear();
    names.forEach((name) => hidden.add(name));
    for (const button of document.querySelectorAll(`button[${attribute}]`)) {
      button.setAttribute("aria-pressed", !hidden.has(button.getAttribute(attribute)));
    }
    drawAll();
  }

  function click(attribute, hidden, all, name, single) {
    const others = all.filter((other) => other !== name);
    const isSingle = !hidden.has(name) && others.every((other) => hidden.has(other));
    if (single) hide(attribute, hidden, isSingle ? [] : others);
    else hide(attribute, hidden, hidden.has(name) ? [...hidden].filter((other) => other !== name) : [...hidden, name]);
  }

  function start() {
    for (const [attribute, hidden, all] of [["data-codec", state.hidden, page.codecs], ["data-head", state.hiddenHeads, page.heads]]) {
      for (const button of document.querySelectorAll(`button[${attribute}]`)) {
        const name = button.getAttribute(attribute);
        button.addEventListener("click", (event) => click(attribute, hidden, all, name, event.shiftKey || event.altKey));
      }
    }
    document.getElementById("all-codecs")?.addEventListener("click", () => hide("data-codec", state.hidden, []));
    document.getElementById("no-codecs")?.addEventListener("click", () => hide("data-codec", state.hidden, page.codecs));
    for (const button of document.querySelectorAll("[data-set-axis]")) button.addEventListener("click", () => set({ axis: button.dataset.setAxis }));
    for (const box of document.querySelectorAll("[data-switch]")) box.addEventListener("change", () => set({ [box.dataset.switch]: box.checked }));
    for (const query of [night, narrow]) query.addEventListener("change", drawAll);
  }

  return { start, set, drawAll, state };
})();
