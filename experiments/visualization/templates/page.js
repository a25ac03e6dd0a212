"use strict";
const { figures, forms } = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function translucent(hex, share) {
  const part = (at) => parseInt(hex.slice(at, at + 2), 16);
  return "rgba(" + [part(1), part(3), part(5), share].join(",") + ")";
}

function inputs(name) {
  const form = name ? document.getElementById(name) : null;
  return form ? Array.from(form.querySelectorAll("input, select")) : [];
}

function places(name) {
  return inputs(name).map((input) => Number(input.value));
}

function valueAt(value, at) {
  return value && value.over
    ? value.over.reduce((rest, slider) => rest[at[slider]], value.values) : value;
}

function trace({ x, y, ...plain }, at) {
  const found = { x: valueAt(x, at), y: valueAt(y, at), ...structuredClone(plain) };
  const own = found.meta.group < 0 ? color("quiet") : color("g" + found.meta.group);
  if (found.meta.band) {
    found.fillcolor = translucent(own, 0.15);
    return found;
  }
  found.line = Object.assign({}, found.line, { color: own });
  found.marker = Object.assign({}, found.marker, { color: own });
  return found;
}

function axis(plain) {
  return Object.assign({
    gridcolor: color("line"), linecolor: color("line"), zerolinecolor: color("quiet"),
    zeroline: false,
  }, plain);
}

function layout(plain) {
  return Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("text"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    margin: { l: 60, r: 12, t: 24, b: 48 }, showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hoverlabel: { bgcolor: color("panel"), font: { color: color("text") } },
  }, plain, { xaxis: axis(plain.xaxis), yaxis: axis(plain.yaxis) });
}

function draw(name) {
  figures.forEach((figure, number) => {
    if (name !== undefined && figure.form !== name) return;
    const at = places(figure.form);
    Plotly.react(
      "chart" + number, figure.data.map((each) => trace(each, at)), layout(figure.layout),
      { responsive: true, displaylogo: false, displayModeBar: false },
    );
  });
}

function showText(name) {
  const at = places(name);
  inputs(name).forEach((input, number) => {
    if (input.tagName === "SELECT") return;
    const text = forms[name].places[number][at[number]];
    input.nextElementSibling.textContent = text;
    input.setAttribute("aria-valuetext", text);
  });
  document.getElementById(name + "-readout").textContent =
    forms[name].readout.map((sentence) => valueAt(sentence, at)).join(" ");
}

for (const name of Object.keys(forms)) {
  const form = document.getElementById(name);
  form.addEventListener("input", () => { showText(name); draw(name); });
  form.addEventListener("submit", (event) => event.preventDefault());
  showText(name);
}
draw();
dark.addEventListener("change", () => draw());
