"use strict";
for (const figure of document.querySelectorAll("[data-map]")) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const plane = figure.querySelector(".plane");
  const circles = [...plane.querySelectorAll("g circle")];
  const shown = plane.querySelector(".shown");
  const canvas = shown.querySelector("canvas");
  const sprite = figure.querySelector(".sprite");
  const select = figure.querySelector("select");
  let view = data.views[select.value];
  let chosen = -1;

  function choose(index) {
    if (chosen >= 0) circles[chosen].classList.remove("chosen");
    chosen = index;
    shown.hidden = index < 0;
    if (index < 0) return;
    const circle = circles[index];
    circle.classList.add("chosen");
    const left = (index % data.columns) * data.size;
    const top = Math.floor(index / data.columns) * data.size;
    canvas.getContext("2d").drawImage(
      sprite, left, top, data.size, data.size, 0, 0, data.size, data.size);
    shown.querySelector("p").textContent = data.names[index];
    const frame = plane.getBoundingClientRect();
    const place = circle.getBoundingClientRect();
    const x = place.right - frame.left + 8;
    const y = place.top - frame.top - shown.offsetHeight / 2;
    const beyond = x + shown.offsetWidth > frame.width;
    shown.style.left = (beyond ? Math.max(0, place.left - frame.left - 8 - shown.offsetWidth) : x) + "px";
    shown.style.top = Math.min(Math.max(0, y), Math.max(0, frame.height - shown.offsetHeight)) + "px";
  }

  // The dot nearest to the pointer: dots are small, fingers are not.
  function nearest(event) {
    const frame = plane.querySelector("svg").getBoundingClientRect();
    const unit = frame.width / 109;
    const x = (event.clientX - frame.left) / unit - 6;
    const y = (event.clientY - frame.top) / unit - 3;
    let best = -1, least = 16;
    view.points.forEach((point, index) => {
      const d = (100 * point[0] - x) ** 2 + (100 - 100 * point[1] - y) ** 2;
      if (d < least) { least = d; best = index; }
    });
    return best;
  }

  plane.addEventListener("pointermove", (event) => choose(nearest(event)));
  plane.addEventListener("pointerdown", (event) => choose(nearest(event)));
  plane.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") choose(-1); });
  plane.addEventListener("blur", () => choose(-1));
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") choose(-1);
    if (!step) return;
    event.preventDefault();
    // Through the dots from left to right.
    const order = view.points.map((_, index) => index).sort(
      (a, b) => view.points[a][0] - view.points[b][0] || a - b);
    const at = order.indexOf(chosen);
    choose(order[at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length]);
  });
  select.addEventListener("change", () => {
    view = data.views[select.value];
    choose(-1);
    view.points.forEach((point, index) => {
      circles[index].setAttribute("cx", 100 * point[0]);
      circles[index].setAttribute("cy", 100 - 100 * point[1]);
    });
    plane.querySelector(".x").textContent = view.x;
    plane.querySelector(".y").textContent = view.y;
  });
}
// What is folded away is part of the printed page too.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
