"use strict";

const PAGE = 50;
const MEANINGS = {
  f1: "the half that tells the rotation",
  f2: "the half that should not know the rotation",
  f: "the whole feature",
};
const DEGREES = [0, 90, 180, 270];

const $ = (id) => document.getElementById(id);
const state = { set: null, subject: null, angle: 0, page: 0, shown: [], maps: null, curve: null };

// Names of files and classes reach the page as text only, never as markup.
function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawn(kind, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function problem(message) {
  $("problem").textContent = message || "";
  $("problem").hidden = !message;
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: has it been ended?");
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function told(error) {
  if (error.name !== "AbortError") problem(error.message);
}

// -- the images of the set ------------------------------------------------------------------

function label(place) {
  const { labels, class_names: names } = state.set;
  if (!labels || labels[place] < 0) return "";
  return names ? names[labels[place]] : `class ${labels[place]}`;
}

function address(what, subject, angle) {
  const which = subject.upload ? `upload=${encodeURIComponent(subject.upload)}`
    : `image=${subject.image}`;
  const turned = angle ? `&angle=${angle}` : "";
  const key = what === "image" ? `&key=${state.set.key}` : "";
  return `api/${what}?${which}${turned}${key}`;
}

function thumb(place) {
  const title = [state.set.names[place], label(place)].filter(Boolean).join(", ");
  const picture = element("img", {
    src: address("image", { image: place }), alt: "", loading: "lazy",
    width: String(state.set.image_size), height: String(state.set.image_size),
  });
  const button = element(
    "button", { type: "button", class: "thumb", title, "aria-label": title }, picture);
  button.dataset.place = place;
  button.addEventListener("click", () => choose(place));
  return button;
}

function filter() {
  const wanted = $("class").value;
  state.shown = [];
  for (let place = 0; place < state.set.num_images; place += 1) {
    if (wanted === "" || String(state.set.labels[place]) === wanted) state.shown.push(place);
  }
  // A folder's order is that of its classes: mixed, always in the same way.
  const mixed = (place) => Math.imul(place + 1, 2654435761) >>> 0;
  state.shown.sort((one, other) => mixed(one) - mixed(other));
  state.page = 0;
  showGrid();
}

function showGrid() {
  const pages = Math.max(1, Math.ceil(state.shown.length / PAGE));
  const first = state.page * PAGE;
  $("grid").replaceChildren(...state.shown.slice(first, first + PAGE).map(thumb));
  $("page").textContent = `${state.page + 1} of ${pages}`;
  $("back").disabled = state.page === 0;
  $("on").disabled = state.page === pages - 1;
  markGrid();
}

// One image of the grid is reached by Tab, the others from there by the arrow keys.
function markGrid() {
  const thumbs = [...$("grid").children];
  const current = thumbs.find((one) => state.subject && !state.subject.upload
    && Number(one.dataset.place) === state.subject.image);
  thumbs.forEach((one, place) => {
    one.setAttribute("aria-current", String(one === current));
    one.tabIndex = one === (current || thumbs[0]) ? 0 : -1;
  });
}

function moveInGrid(event) {
  const thumbs = [...$("grid").children];
  const at = thumbs.indexOf(document.activeElement);
  if (at < 0) return;
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
    Home: -at, End: thumbs.length - 1 - at };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const target = thumbs[Math.min(thumbs.length - 1, Math.max(0, at + steps[event.key]))];
  thumbs.forEach((one) => { one.tabIndex = one === target ? 0 : -1; });
  target.focus();
}

// -- one picture ----------------------------------------------------------------------------

let running = new AbortController();
let waiting = 0;

function choose(place) {
  const [name, kind] = [state.set.names[place], label(place)];
  study({ image: place, title: kind ? `${name} (${kind})` : name });
}

function study(subject) {
  state.subject = subject;
  state.curve = null;
  problem("");
  $("name").textContent = subject.title;
  $("hint").hidden = true;
  $("work").hidden = false;
  $("neighbours").hidden = false;
  markGrid();
  turned(state.angle, true);
  if (window.matchMedia("(max-width: 52rem)").matches) {
    $("studied").scrollIntoView({ behavior: "smooth" });
  }
}

function turned(angle, fresh = false) {
  state.angle = angle;
  $("angle").value = angle;
  $("angle-value").textContent = `${angle}°`;
  for (const one of document.getElementsByName("quarter")) one.checked = Number(one.value) === angle;
  if (!state.subject) return;
  remember();
  state.maps = null;
  showHeat();
  running.abort();
  clearTimeout(waiting);
  if (state.curve) showCurve();
  // While the slider moves, nothing is asked.
  waiting = setTimeout(look, fresh ? 0 : 90);
}

async function look() {
  running = new AbortController();
  const { subject, angle } = state;
  const options = { signal: running.signal };
  for (const id of ["rows", "rotation", "distance"]) $(id).classList.add("busy");
  $("picture").src = address("image", subject, angle);
  $("picture").alt = `${subject.title}, turned by ${angle} degrees`;
  try {
    const seen = await ask(address("look", subject, angle), options);
    for (const id of ["rows", "rotation", "distance"]) $(id).classList.remove("busy");
    showRotation(seen.rotation);
    showDistance(seen.distance);
    showNeighbours(seen.neighbours);
    const best = DEGREES[seen.rotation.indexOf(Math.max(...seen.rotation))];
    $("status").textContent = `Turned by ${angle} degrees; predicted rotation ${best} degrees.`;
    if (!state.curve) {
      state.curve = await ask(address("curve", subject, 0), options);
      showCurve();
    }
    if ($("map").value) await showMaps(options);
  } catch (error) {
    told(error);
  }
}

function bar(name, share, text, fill = "") {
  const filled = element("div", { class: `fill ${fill}` });
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  const track = element("div", { class: "track" }, filled);
  return element("div", { class: "bar" }, element("span", {}, name), track,
    element("span", { class: "value" }, text));
}

function showRotation(chances) {
  const best = chances.indexOf(Math.max(...chances));
  $("rotation").replaceChildren(...chances.map((chance, place) => {
    const made = bar(`${DEGREES[place]}°`, chance, `${(100 * chance).toFixed(1)} %`);
    if (place === best) made.classList.add("best");
    return made;
  }));
}

function showDistance(distances) {
  const spreads = state.set.features.map((feature) => feature.spread || 0);
  const largest = Math.max(1e-6, ...Object.values(distances), ...spreads) * 1.08;
  $("distance").replaceChildren(...state.set.features.map(({ name, spread }) => {
    const made = bar(name, distances[name] / largest, distances[name].toFixed(3), `fill-${name}`);
    if (spread !== null) {
      const tick = element("div", { class: "tick", title: `mean: ${spread.toFixed(3)}` });
      tick.style.left = `${(100 * spread) / largest}%`;
      made.querySelector(".track").append(tick);
    }
    return made;
  }));
}

function showNeighbours(neighbours) {
  const { subject, set } = state;
  const own = subject.upload || !label(subject.image) ? null : set.labels[subject.image];
  $("frames").hidden = own === null;
  $("rows").replaceChildren(...set.features.map(({ name }) => {
    let [same, others] = [0, 0];
    const items = neighbours[name].map(({ image, similarity }) => {
      const item = element("li", {}, thumb(image));
      const itself = !subject.upload && image === subject.image;
      if (own !== null) {
        item.className = set.labels[image] === own ? "same" : "other";
        same += !itself && set.labels[image] === own;
        others += !itself;
      }
      item.append(element("span", {}, itself ? "itself" : label(image) || set.names[image]));
      item.append(element("span", { class: "similarity" }, similarity.toFixed(3)));
      return item;
    });
    const count = own === null ? "" : ` · ${same} of ${others} others are of its class`;
    const title = element("h3", {}, name, element("span", {}, ` ${MEANINGS[name]}${count}`));
    return element("div", { class: `row ${name}` }, title, element("ol", {}, ...items));
  }));
}

// -- what matters ---------------------------------------------------------------------------

async function showMaps(options) {
  if (!$("map").value || !state.subject) return showHeat();
  if (!state.maps) {
    $("map-note").textContent = "Covering one part after another…";
    const { subject, angle } = state;
    const maps = await ask(address("occlusion", subject, angle), options);
    if (subject !== state.subject || angle !== state.angle) return;
    state.maps = maps;
  }
  showHeat();
}

function showHeat() {
  const [canvas, name] = [$("heat"), $("map").value];
  const context = canvas.getContext("2d");
  if (!name || !state.maps) {
    canvas.width = canvas.height = 1;
    context.clearRect(0, 0, 1, 1);
    if (!name) $("map-note").textContent = "";
    return;
  }
  const { size, maps } = state.maps;
  canvas.width = canvas.height = size;
  const pixels = context.createImageData(size, size);
  maps[name].values.forEach((value, place) => {
    // From clear over red to yellow: what matters little stays as it is.
    pixels.data.set([255, Math.max(0, 2 * value - 255), 0, 0.75 * value], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  const largest = maps[name].largest.toFixed(3);
  $("map-note").textContent = name === "rotation"
    ? "By occlusion: where a grey square lowers the log probability of the predicted rotation, "
      + `at most by ${largest}.`
    : `By occlusion: where a grey square moves ${name}, at most by a cosine distance of ${largest}.`;
}

function showCurve() {
  const { degrees, distance } = state.curve;
  // Drawn at the size it is shown at, so that its letters are as large as all others.
  const width = Math.max(280, $("curve").clientWidth);
  const [height, left, right, top, bottom] = [230, 52, 34, 12, 42];
  const spreads = state.set.features.map((feature) => feature.spread || 0);
  const largest = 1.08 * Math.max(1e-6, ...Object.values(distance).flat(), ...spreads);
  const x = (angle) => left + ((width - left - right) * angle) / 360;
  const y = (value) => height - bottom - ((height - top - bottom) * value) / largest;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Cosine distance to itself unturned, by angle, for each feature" });
  for (let angle = 0; angle <= 360; angle += 90) {
    svg.append(drawn("line", { x1: x(angle), x2: x(angle), y1: top, y2: height - bottom,
      class: "axis" }));
    svg.append(drawn("text", { x: x(angle), y: height - bottom + 17, "text-anchor": "middle" },
      `${angle}°`));
  }
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((one) => largest / one <= 5) || 1;
  for (let value = 0; value <= largest; value += step) {
    svg.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value),
      class: "axis" }));
    svg.append(drawn("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" },
      value.toFixed(step < 0.1 ? 2 : 1)));
  }
  svg.append(drawn("text", { x: (left + width - right) / 2, y: height - 6,
    "text-anchor": "middle" }, "turned by, counter-clockwise"));
  svg.append(drawn("text", { x: 13, y: (top + height - bottom) / 2, "text-anchor": "middle",
    transform: `rotate(-90 13 ${(top + height - bottom) / 2})` }, "distance"));
  // Names beside the ends, kept apart.
  const ends = [];
  for (const { name, spread } of state.set.features) {
    const values = [...distance[name], distance[name][0]];
    const points = values.map((value, place) =>
      `${place ? "L" : "M"}${x(place * (360 / degrees.length)).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(drawn("path", { d: points.join(""), class: name }));
    if (spread !== null) {
      svg.append(drawn("line", { x1: left, x2: width - right, y1: y(spread), y2: y(spread),
        class: `mean ${name}` }));
    }
    ends.push({ name, at: spread === null ? y(0) : y(spread) });
  }
  ends.sort((one, other) => one.at - other.at);
  ends.forEach((end, place) => {
    if (place) end.at = Math.max(end.at, ends[place - 1].at + 15);
    svg.append(drawn("text", { x: width - right + 7, y: end.at + 4, class: end.name }, end.name));
  });
  svg.append(drawn("line", { x1: x(state.angle), x2: x(state.angle), y1: top,
    y2: height - bottom, class: "now" }));
  $("curve").replaceChildren(svg, element("p", { class: "quiet" },
    "Dashed: the mean distance between two different images, for each feature. "
    + "Between quarter turns the corners are filled with the mirror image."));
}

// -- pictures of one's own ------------------------------------------------------------------

async function upload(file) {
  if (!file || !state.set) return;
  problem("");
  if (file.size > state.set.limits.bytes) {
    problem(`${file.name}: a picture has at most ${state.set.limits.bytes / 2 ** 20} MiB`);
    return;
  }
  try {
    const headers = { "Content-Type": file.type || "application/octet-stream" };
    const kept = await ask("api/upload", { method: "POST", headers, body: file });
    const name = file.name || "pasted picture";
    study({ upload: kept.upload, title: `${name} (${kept.width} × ${kept.height})` });
  } catch (error) {
    problem(`${file.name || "This"}: ${error.message}`);
  }
}

function listenForPictures() {
  const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  let depth = 0;
  document.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) document.body.classList.remove("dropping");
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    depth = 0;
    document.body.classList.remove("dropping");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    upload(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) upload(file);
  });
  $("file").addEventListener("change", () => {
    upload($("file").files[0]);
    $("file").value = "";
  });
}

// -- start ----------------------------------------------------------------------------------

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").setAttribute("aria-pressed", String(name === "dark"));
  if (state.curve) showCurve();
}

function remember() {
  const image = state.subject.upload ? "" : `image=${state.subject.image}&`;
  history.replaceState(null, "", `#${image}angle=${state.angle}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const angle = Number(kept.get("angle"));
  if (Number.isInteger(angle) && angle >= 0 && angle < 360) turned(angle);
  const image = kept.get("image");
  if (/^\d+$/.test(image || "") && Number(image) < state.set.num_images) choose(Number(image));
}

function describe() {
  const { set } = state;
  const number = (value) => value.toLocaleString("en");
  $("run").textContent = set.run;
  document.title = `Explore ${set.run}`;
  const part = set.num_images < set.num_in_set ? ` of ${number(set.num_in_set)}` : "";
  $("about").textContent = `${number(set.num_images)}${part} images of ${set.set}, seen at `
    + `${set.image_size} × ${set.image_size} pixels; `
    + set.features.map(({ name, dimensions }) => `${name}: ${dimensions} numbers`).join(", ");
  $("limits").textContent = `Drop, paste or choose an image (JPEG, PNG, WebP, TIFF, AVIF ...), at most `
    + `${set.limits.bytes / 2 ** 20} MiB and ${set.limits.pixels / 1e6} million pixels. It stays `
    + "on this machine.";
  $("rotation-note").textContent = set.rotation === "trained"
    ? `By the classifier trained with the network, on ${set.rotation_feature}.`
    : `By a linear classifier on ${set.rotation_feature}, fitted for this page to `
      + `${number(set.fitted_to)} of these images, upright and turned: for those it looks better than it is.`;
  document.body.classList.toggle("pixels", set.image_size < 96);
  if (set.labels) {
    const kinds = [...new Set(set.labels)].sort((one, other) => one - other);
    $("class").append(element("option", { value: "" }, "all"), ...kinds.map((kind) =>
      element("option", { value: String(kind) },
        kind < 0 ? "without a class" : set.class_names ? set.class_names[kind] : String(kind))));
    $("class-label").hidden = kinds.length < 2;
  } else {
    $("class").append(element("option", { value: "" }, "all"));
  }
  const maps = { rotation: "for the predicted rotation" };
  for (const { name } of set.features) maps[name] = `for ${name}`;
  for (const [value, text] of Object.entries(maps)) {
    $("map").append(element("option", { value }, text));
  }
}

async function start() {
  theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) =>
    theme(event.matches ? "dark" : "light"));
  $("theme").addEventListener("click", () =>
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  try {
    state.set = await ask("api/set");
  } catch (error) {
    told(error);
    return;
  }
  describe();
  $("class").addEventListener("change", filter);
  $("back").addEventListener("click", () => { state.page -= 1; showGrid(); });
  $("on").addEventListener("click", () => { state.page += 1; showGrid(); });
  $("grid").addEventListener("keydown", moveInGrid);
  $("angle").addEventListener("input", () => turned(Number($("angle").value)));
  for (const one of document.getElementsByName("quarter")) {
    one.addEventListener("change", () => turned(Number(one.value)));
  }
  $("map").addEventListener("change", () =>
    showMaps({ signal: running.signal }).catch(told));
  addEventListener("resize", () => { if (state.curve) showCurve(); });
  listenForPictures();
  filter();
  recall();
}

start();
