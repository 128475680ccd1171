"use strict";
// Figures: drawn in the colours of the page, which follow the reader's; on paper they are dark on white.
const dark = matchMedia("(prefers-color-scheme: dark)");
const channels = text => {
  const hex = /^#([0-9a-f]{6})$/i.exec(text), named = {white: [255, 255, 255], black: [0, 0, 0]}[text];
  if (hex) return [0, 2, 4].map(at => parseInt(hex[1].slice(at, at + 2), 16)).concat(1);
  const rgba = /^rgba?\(([\d.]+), ?([\d.]+), ?([\d.]+)(?:, ?([\d.]+))?\)$/.exec(text);
  if (rgba) return rgba.slice(1, 4).map(Number).concat(rgba[4] === undefined ? 1 : Number(rgba[4]));
  return named ? [...named, 1] : null;
};
const onDark = text => {  // greys change sides, and dark colours become light enough to be seen
  const parts = channels(text);
  if (!parts) return text;
  const [r, g, b, alpha] = parts, spread = Math.max(r, g, b) - Math.min(r, g, b), light = (0.3 * r + 0.59 * g + 0.11 * b) / 255;
  const turned = spread < 24 ? [r, g, b].map(value => 238 - 0.8 * value)
    : light < 0.42 ? [r, g, b].map(value => value + (255 - value) * (0.52 - light)) : [r, g, b];
  return `rgba(${turned.map(Math.round).join(",")},${alpha})`;
};
const recoloured = (value, key) => {
  if (typeof value === "string") return /color$/i.test(key) ? onDark(value) : value;
  if (Array.isArray(value)) return value.map(item => recoloured(item, key));
  if (!value || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) =>
    [name, ["colorscale", "coloraxis", "colorbar", "text", "customdata", "hovertext"].includes(name) ? item : recoloured(item, name)]));
};
// The dark counterparts of the two scales of figures: what is near 0 is dark, so that texts on cells change sides as greys do.
const darkScales = {
  sequential: [[0, "#1b2733"], [0.35, "#1d4466"], [0.7, "#2b6c9f"], [0.78, "#7cbbe6"], [1, "#e6f3fc"]],
  diverging: [[0, "#ffb27a"], [0.125, "#9a4a14"], [0.5, "#1b2733"], [0.875, "#2b6c9f"], [1, "#9fd2f5"]],
};
const darkScale = scale => {
  const middle = (scale || []).find(stop => stop[0] === 0.5);
  return /^#f{6}$/i.test(middle ? middle[1] : "") ? darkScales.diverging : darkScales.sequential;
};
const themed = (plot, isDark) => {
  const layout = structuredClone(plot.layout), clear = "rgba(0,0,0,0)";
  // A heat map's own ground is the colour of cells without a value.
  if (!isDark) return {data: structuredClone(plot.data), layout: {...layout, paper_bgcolor: "white", plot_bgcolor: layout.plot_bgcolor || "white"}};
  const cells = trace => ({...structuredClone(trace), colorscale: darkScale(trace.colorscale)});
  const ground = layout.plot_bgcolor ? onDark(layout.plot_bgcolor) : clear;
  return {
    data: plot.data.map(trace => trace.type === "heatmap" ? cells(trace) : recoloured(trace, "")),
    layout: {...recoloured(layout, ""), paper_bgcolor: clear, plot_bgcolor: ground},
  };
};
const draw = isDark => {
  for (const [id, plot] of Object.entries(plots)) {
    const {data, layout} = themed(plot, isDark);
    Plotly.react(id, data, layout, options);
  }
};
draw(dark.matches);
dark.addEventListener("change", () => draw(dark.matches));
// A page for print is as wide as the figures are drawn for, whatever the window was.
addEventListener("beforeprint", () => {
  if (dark.matches) draw(false);
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  for (const id of Object.keys(plots)) Plotly.relayout(id, {width: 900});
});
addEventListener("afterprint", () => {
  if (dark.matches) draw(true);
  for (const id of Object.keys(plots)) Plotly.relayout(id, {width: null}).then(() => Plotly.Plots.resize(id));
});

// Records: sorted, filtered, and written as CSV.
const table = document.querySelector(".records"), find = id => document.getElementById(id);
const state = {column: records.severity, down: true};
const order = (a, b) => {
  const [one, two] = [a[state.column], b[state.column]];
  if (!records.numbers[state.column]) return one.localeCompare(two, undefined, {numeric: true});
  const [first, second] = [parseFloat(one), parseFloat(two)];
  if (isNaN(first) || isNaN(second)) return (isNaN(first) ? -1 : 0) - (isNaN(second) ? -1 : 0);  // what is not known is least
  return first - second;
};
const chosen = () => {
  const words = find("records-text").value.trim().toLowerCase(), kind = find("records-kind").value, code = find("records-language").value;
  return records.rows.filter(row => (!kind || row[records.kind] === kind)
    && (!code || row[records.languages].split(" ").includes(code))
    && (!words || row.some(cell => cell.toLowerCase().includes(words))));
};
const level = text => [0, 25, 50, 75].filter(step => parseFloat(text) > step).length;
const show = () => {
  const rows = chosen().sort((a, b) => state.down ? order(b, a) : order(a, b));
  table.tBodies[0].replaceChildren(...rows.slice(0, records.most).map(row => {
    const line = document.createElement("tr");
    row.slice(0, records.names.length).forEach((text, place) => {
      const cell = line.appendChild(document.createElement("td"));
      cell.dir = "auto";
      cell.textContent = text.replace(/ %/g, "\u00a0%");
      if (place === records.severity) cell.className = `s${level(text)}`;
    });
    return line;
  }));
  const more = rows.length > records.most ? `; the first ${records.most} are shown` : "";
  find("records-count").textContent = `${rows.length} of ${records.rows.length} records${more}.`;
};
if (table) {
  table.querySelectorAll("th button").forEach((button, place) => button.addEventListener("click", () => {
    state.down = state.column === place ? !state.down : records.numbers[place];
    state.column = place;
    table.querySelectorAll("th").forEach((head, at) => head.setAttribute("aria-sort", at !== place ? "none" : state.down ? "descending" : "ascending"));
    show();
  }));
  for (const id of ["records-text", "records-kind", "records-language"]) find(id).addEventListener("input", show);
  find("records-csv").addEventListener("click", () => {
    // A spreadsheet must not take a cell for a formula.
    const quoted = text => `"${text.replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
    const lines = [records.names, ...records.rows.map(row => row.slice(0, records.names.length))].map(row => row.map(quoted).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff" + lines.join("\r\n") + "\r\n"], {type: "text/csv"}));
    link.download = "records.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}
