"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const confusions = JSON.parse(document.getElementById("confusions").textContent);
  const root = document.documentElement;
  const views = new Map();
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  // ------------------------------------------------------------------------------------------------------- figures
  function config(dark) {
    const fg = dark ? "#e6ebf0" : "#17212b", muted = dark ? "#a4afba" : "#56606b", grid = dark ? "#2b3642" : "#e4e9ed";
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent", font,
      axis: { labelColor: fg, titleColor: muted, gridColor: grid, domainColor: muted, tickColor: muted, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 },
      legend: { symbolBaseFillColor: muted, labelColor: fg, titleColor: muted, labelFontSize: 12, titleFontWeight: 500 },
      text: { color: fg }, view: { stroke: null }, title: { color: fg },
    };
  }
  async function draw(dark) {
    const jobs = Object.entries(specs).map(async ([name, spec]) => {
      const place = document.getElementById(name);
      if (!place) return;
      views.get(name)?.finalize();
      const options = { renderer: "svg", logLevel: 1, // errors only: a figure without chosen models warns about its extent
        config: config(dark), tooltip: { theme: dark ? "dark" : "light" }, actions: { export: true, source: false, compiled: false, editor: false } };
      views.set(name, await vegaEmbed(place, spec, options));
    });
    await Promise.all(jobs);
    await show();
  }

  // ------------------------------------------------------------------------------------------------- chosen models
  const boxes = [...document.querySelectorAll("input[data-model]")];
  async function show() {
    if (!boxes.length) return;
    const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.model));
    const status = document.getElementById("chosen");
    if (status) status.textContent = off.size ? `${boxes.length - off.size} of ${boxes.length} models in the figures` : "";
    for (const [name, { view }] of views) {
      const all = (specs[name].params || []).find((param) => param.name === "shown");
      if (!all) continue;
      // A figure without any model has no scale, and its axes would be drawn at infinity.
      const empty = off.size === boxes.length;
      document.getElementById(name).classList.toggle("empty", empty);
      if (!empty) await view.signal("shown", all.value.filter((model) => !off.has(model))).runAsync();
    }
  }
  const tick = (on) => { boxes.forEach((box) => { box.checked = on; }); show(); };
  boxes.forEach((box) => box.addEventListener("change", show));
  document.getElementById("all")?.addEventListener("click", () => tick(true));
  document.getElementById("none")?.addEventListener("click", () => tick(false));

  // --------------------------------------------------------------------------------------------------------- tables
  document.querySelectorAll("main table thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
      const heads = [...head.parentNode.children], at = heads.indexOf(head);
      const numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numeric || at < 2;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[at].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        // Missing values and the baseline stay at the end in both directions.
        const last = (row, v) => (v === "" ? 1 : 0) + (row.classList.contains("baseline") ? 2 : 0);
        const end = last(a, x) - last(b, y);
        if (end) return end;
        const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
  document.querySelectorAll("input[data-filter]").forEach((input) => {
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of document.getElementById(input.dataset.filter).tBodies[0].rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
      }
    });
  });

  // ------------------------------------------------------------------------------------------------------ confusion
  const data = document.getElementById("confusion-data"), model = document.getElementById("confusion-model");
  const place = document.getElementById("confusion");
  const cell = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  };
  function fill() {
    const found = confusions[data.value];
    model.replaceChildren(...found.models.map((name) => cell("option", name)));
  }
  function confusion() {
    const found = confusions[data.value], table = document.createElement("table");
    table.append(cell("caption", `${model.value} on ${found.title}: rows are true classes, columns are answers, summed over seeds`));
    const head = table.createTHead().insertRow(), body = table.createTBody();
    if (found.classes.length) {
      head.append(cell("td", ""), ...found.classes.map((name) => cell("th", name, { scope: "col" })));
      found.matrices[model.value].forEach((counts, at) => {
        const row = body.insertRow(), total = counts.reduce((sum, count) => sum + count, 0);
        row.append(cell("th", found.classes[at], { scope: "row" }));
        counts.forEach((count, to) => {
          const share = total ? count / total : 0, right = to === at;
          const colour = right ? `rgba(10, 126, 164, ${0.15 + 0.6 * share})` : `rgba(213, 94, 0, ${count ? 0.1 + 0.8 * share : 0})`;
          row.append(cell("td", count || "", { style: `background: ${colour}`, title: `${found.classes[at]} answered as ${found.classes[to]}: ${count} of ${total}` }));
        });
      });
    } else {
      head.append(...["true class", "answer", "images"].map((name) => cell("th", name, { scope: "col" })));
      for (const [truth, answer, count] of found.worst[model.value]) {
        const row = body.insertRow();
        row.append(cell("th", truth, { scope: "row" }), cell("td", answer), cell("td", count));
      }
    }
    place.replaceChildren(table);
  }
  if (data) {
    data.replaceChildren(...Object.entries(confusions).map(([name, { title }]) => cell("option", title, { value: name })));
    data.addEventListener("change", fill);
    document.getElementById("confusion-show").addEventListener("click", confusion);
    fill();
  }

  // ---------------------------------------------------------------------------------------------------------- theme
  const button = document.getElementById("theme");
  const label = () => { button.textContent = isDark() ? "Light mode" : "Dark mode"; button.setAttribute("aria-pressed", String(isDark())); };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); draw(isDark()); });
  system.addEventListener("change", () => { label(); draw(isDark()); });
  // Paper is white, so figures are drawn again in the light theme for printing.
  let kept;
  addEventListener("beforeprint", () => { kept = root.dataset.theme; root.dataset.theme = "light"; draw(false); });
  addEventListener("afterprint", () => { if (kept) root.dataset.theme = kept; else delete root.dataset.theme; draw(isDark()); });
  label();
  draw(isDark()).then(() => { root.dataset.drawn = String(Math.round(performance.now())); });
})();
