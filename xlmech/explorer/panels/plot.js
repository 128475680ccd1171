// A Plotly figure, drawn again whenever it changes; a click on a point is told to Python.
//
// anywidget gives up on a widget whose module takes two seconds to load, so Plotly, which is large, is not in the module: one
// widget of the page holds it as `library`, and all plots wait for it.
const shared = (globalThis.xlmechPlotly ??= (() => {
  let found;
  const ready = new Promise((resolve) => (found = resolve));
  return { ready, found, isLoading: false };
})());
const config = { displaylogo: false, responsive: true };

function initialize({ model }) {
  const code = model.get("library");
  if (!code || shared.isLoading) return;
  shared.isLoading = true;
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  script.onload = () => shared.found(globalThis.Plotly);
  document.head.appendChild(script);
}

function render({ model, el }) {
  const box = document.createElement("div");
  box.style.width = "100%";
  el.appendChild(box);
  let forget = () => {};
  shared.ready.then((plotly) => (forget = follow(plotly, model, box)));
  return () => forget();
}

function follow(plotly, model, box) {
  const draw = () => {
    const { data, layout } = JSON.parse(model.get("figure"));
    return plotly.react(box, data, layout, config);
  };
  const tell = ({ points: [point] }) => {
    const number = point.pointNumber ?? point.pointIndex;
    model.set("clicked", {
      trace: point.curveNumber,
      point: Array.isArray(number) ? -1 : number,
      x: Number(point.x),
      y: Number(point.y),
      time: Date.now(),
    });
    model.save_changes();
  };
  draw().then(() => box.on("plotly_click", tell));
  model.on("change:figure", draw);
  const watch = new ResizeObserver(() => box.offsetWidth && plotly.Plots.resize(box));
  watch.observe(box.parentElement);
  return () => {
    model.off("change:figure", draw);
    watch.disconnect();
    plotly.purge(box);
  };
}

export default { initialize, render };
