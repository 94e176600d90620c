"use strict";

const planes = [...document.querySelectorAll(".plane")].map((figure) => ({
  figure,
  stage: figure.querySelector(".stage"),
  slider: figure.querySelector("input"),
  output: figure.querySelector("output"),
  cuts: figure.dataset.cuts,
  across: figure.dataset.across,
  down: figure.dataset.down,
  columns: Number(figure.dataset.columns),
  at: figure.dataset.at.split(" ").map(Number), // middle of each slice, as a share of the axis that it cuts
  places: figure.dataset.places.split("|"),
}));
const overlays = [...document.querySelectorAll("fieldset input")];
let current = planes[0];

function show(plane) {
  const index = Number(plane.slider.value);
  plane.stage.style.setProperty("--column", index % plane.columns);
  plane.stage.style.setProperty("--row", Math.floor(index / plane.columns));
  plane.output.value = plane.places[index];
  plane.slider.setAttribute("aria-valuetext", plane.places[index]);
  for (const other of planes) {
    if (other.across === plane.cuts) other.stage.style.setProperty("--x", plane.at[index]);
    if (other.down === plane.cuts) other.stage.style.setProperty("--y", plane.at[index]);
  }
}

function go(plane, index) {
  plane.slider.value = index; // the browser keeps it in range
  show(plane);
}

function goTo(axis, share) {
  for (const plane of planes.filter((plane) => plane.cuts === axis)) {
    const away = plane.at.map((middle) => Math.abs(middle - share));
    go(plane, away.indexOf(Math.min(...away)));
  }
}

function point(plane, event) {
  const box = plane.stage.getBoundingClientRect();
  goTo(plane.across, (event.clientX - box.left) / box.width);
  goTo(plane.down, (event.clientY - box.top) / box.height);
}

for (const plane of planes) {
  plane.slider.addEventListener("input", () => show(plane));
  plane.figure.addEventListener("focusin", () => { current = plane; });
  plane.stage.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    plane.slider.focus({ preventScroll: true });
    plane.stage.setPointerCapture(event.pointerId);
    point(plane, event);
  });
  plane.stage.addEventListener("pointermove", (event) => { if (event.buttons & 1) point(plane, event); });
  plane.stage.addEventListener("wheel", (event) => {
    if (!plane.figure.contains(document.activeElement)) return; // the page scrolls until a plane is chosen
    event.preventDefault();
    go(plane, Number(plane.slider.value) + Math.sign(event.deltaY));
  }, { passive: false });
  show(plane);
}

function overlay() {
  const chosen = overlays.find((input) => input.checked).value;
  for (const layer of document.querySelectorAll(".layer")) layer.hidden = layer.dataset.layer !== chosen;
  for (const key of document.querySelectorAll(".legend [data-for]")) {
    key.hidden = !key.dataset.for.split(" ").includes(chosen);
  }
}

for (const input of overlays) input.addEventListener("change", overlay);
overlay();

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (/^[0-9]$/.test(event.key) && overlays[Number(event.key)]) {
    overlays[Number(event.key)].checked = true;
    overlay();
    return;
  }
  const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (step === undefined || event.target instanceof HTMLInputElement) return; // inputs know what to do
  event.preventDefault();
  go(current, Number(current.slider.value) + step);
});
