"use strict";

const facts = document.querySelector(".facts");
const edges = [...document.querySelectorAll(".edge")];
// The browser's own tooltip comes late and goes away; the panel takes its place, and the text stays in the page.
const texts = new Map([...document.querySelectorAll(".node")].map((node) => {
  const title = node.querySelector("title");
  const text = title.textContent;
  title.remove();
  node.setAttribute("aria-label", text);
  return [node, text];
}));

function show(node) {
  const number = node.dataset.number;
  facts.replaceChildren(facts.querySelector("h2"), ...texts.get(node).split("\n").map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
  for (const edge of edges) edge.classList.toggle("chosen", edge.dataset.ends.split(" ").includes(number));
}

for (const node of texts.keys()) {
  node.addEventListener("pointerenter", () => show(node));
  node.addEventListener("focus", () => show(node));
}

const sheet = document.querySelector(".sheet");
const first = document.querySelector(".node");
if (first !== null) { // a graph that is wider than the page begins at its input
  const box = first.getBoundingClientRect();
  sheet.scrollLeft = box.left + box.width / 2 - sheet.getBoundingClientRect().left - sheet.clientWidth / 2;
}
