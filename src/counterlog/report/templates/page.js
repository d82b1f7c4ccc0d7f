"use strict";
(function () {
  const root = document.documentElement;
  const drawn = new Set();
  const sources = new Map();
  for (const script of document.querySelectorAll("script.plotdata")) {
    sources.set(script.dataset.for, JSON.parse(script.textContent));
  }
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const axes = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));

  function themed(layout) {
    const out = structuredClone(layout);
    out.font = Object.assign({}, out.font, { color: colour("--ink") });
    out.hoverlabel = Object.assign({}, out.hoverlabel, {
      bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") },
    });
    for (const key of new Set(["xaxis", "yaxis", ...axes(out)])) {
      out[key] = Object.assign({}, out[key], {
        gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--soft"),
      });
    }
    delete out.template;
    return out;
  }

  const settings = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: false };

  function draw(id) {
    const target = document.getElementById(id);
    const source = sources.get(id);
    if (!target || target.offsetParent === null) return;
    drawn.add(id);
    Plotly.react(target, structuredClone(source.data), themed(source.layout), settings);
  }
  function drawAll() { for (const id of sources.keys()) draw(id); }

  const panels = document.querySelectorAll("[data-reward]");
  const buttons = document.querySelectorAll("[data-choose]");
  let chosen = "0";
  function choose(which) {
    chosen = which;
    for (const panel of panels) panel.hidden = panel.dataset.reward !== which;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.choose === which));
    drawAll();
  }
  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.choose));

  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (prefersDark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    drawAll();
  });
  prefersDark.addEventListener("change", drawAll);

  window.addEventListener("beforeprint", () => {
    for (const panel of panels) panel.hidden = false;
    drawAll();
  });
  window.addEventListener("afterprint", () => choose(chosen));
  window.matchMedia("print").addEventListener("change", drawAll);

  function cell(text) {
    const number = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text);
    const safe = !number && /^\s*[=+\-@\t\r\n]|^[\t\r\n]/.test(text) ? "'" + text : text;
    return /[",\r\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
  }
  function csv(table) {
    const lines = [];
    for (const row of table.rows) {
      lines.push([...row.cells].map((c) => cell(c.dataset.value || c.firstChild?.textContent || "")).join(","));
    }
    return lines.join("\r\n") + "\r\n";
  }
  for (const button of document.querySelectorAll("button.csv")) {
    button.addEventListener("click", () => {
      const table = button.parentElement.querySelectorAll("table");
      const mine = [...table].filter((t) => t.compareDocumentPosition(button) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(mine)], { type: "text/csv" }));
      link.download = button.dataset.name.toLowerCase().replace(/[^a-z0-9]+/g, "-") + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  choose(chosen);
})();
