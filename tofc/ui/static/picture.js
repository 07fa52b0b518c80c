// The picture and its tokens: patches of one token are one shape, and whoever points at it, or goes there with
// the arrow keys, sees what it stands for.

const SVG = "http://www.w3.org/2000/svg";
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const frame = document.getElementById("frame");
const shown = document.getElementById("picture");
const overlay = document.getElementById("clusters");
const hint = document.getElementById("hint");
let summary = "";
let tokens = { map: [], cells: [], sizes: [], at: [0, 0] }; // `at` is the patch where the keys are

// A file as the page shows and sends it; an Error where the browser cannot show it.
export async function readPicture(file) {
  const url = URL.createObjectURL(file), image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error("this browser cannot show that file; try a JPEG or PNG");
  }
  return { url, width: image.naturalWidth, height: image.naturalHeight, data: await base64(file) };
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("the file cannot be read"));
    reader.readAsDataURL(file);
  });
}

export function showPicture({ url, width, height }) {
  clearClusters();
  shown.onload = () => URL.revokeObjectURL(url);
  shown.src = url;
  fit(width, height);
  document.getElementById("invite").hidden = true;
  frame.hidden = document.getElementById("under").hidden = false;
}

function fit(width, height) {
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = `min(100%, calc(66vh * ${width / height}))`;
}

export function clearClusters() {
  overlay.classList.remove("chosen"); // what the pointer was on is gone
  overlay.replaceChildren();
  hint.textContent = summary = "";
}

export function drawClusters({ map, colours, seams, box }, { width, height }) {
  const had = overlay.contains(document.activeElement);
  clearClusters();
  const [left, top, wide, tall] = box, rows = map.length, columns = map[0].length;
  const shapes = colours.map(() => []);
  map.forEach((line, row) => line.forEach((cluster, column) => {
    shapes[cluster].push([left + (wide * column) / columns, top + (tall * row) / rows]);
  }));
  fit(width, height);
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.setAttribute("preserveAspectRatio", "none");
  const cells = shapes.map((patches, cluster) => element("path", {
    class: "cell", fill: colours[cluster], role: "img", tabindex: -1, "data-token": cluster,
    "aria-label": `Token ${cluster + 1}: ${patches.length} of ${rows * columns} patches`,
    d: patches.map(([x, y]) => `M${x} ${y}h${wide / columns}v${tall / rows}h${-wide / columns}z`).join(""),
  }));
  overlay.replaceChildren(...cells, element("path", { class: "seams", d: seams }));
  tokens = { map, cells, sizes: shapes.map((patches) => patches.length), at: [0, 0] };
  cells[map[0][0]].setAttribute("tabindex", 0);
  if (had) cells[map[0][0]].focus(); // a dial's change leaves the keys where they were
  const used = tokens.sizes.filter((size) => size).length;
  const how = matchMedia("(hover: none)").matches ? "Tap one." : "Point at one.";
  summary = used < rows * columns ? `${rows * columns} patches became ${used} tokens. ${how}`
    : `${used} tokens, one for each patch.`;
  hint.textContent = summary;
}

function choose(path) {
  release();
  path.classList.add("here");
  overlay.classList.add("chosen");
  const all = tokens.map.length * tokens.map[0].length;
  hint.textContent = `This one token stands for ${tokens.sizes[path.dataset.token]} of ${all} patches.`;
}

function release() {
  overlay.classList.remove("chosen");
  overlay.querySelector(".here")?.classList.remove("here");
  hint.textContent = summary;
}

// From one token to the next in a direction: over all patches that belong to the same.
function step([down, right]) {
  const { map, cells } = tokens, [row, column] = tokens.at, from = map[row][column];
  let next = [row + down, column + right];
  while (map[next[0]]?.[next[1]] === from) next = [next[0] + down, next[1] + right];
  const to = map[next[0]]?.[next[1]];
  if (to === undefined) return; // the edge of the picture
  cells[from].setAttribute("tabindex", -1);
  cells[to].setAttribute("tabindex", 0);
  tokens.at = next;
  cells[to].focus();
}

const cellOf = (event) => event.target.closest(".cell");
overlay.addEventListener("pointerover", (event) => cellOf(event) && choose(cellOf(event)));
overlay.addEventListener("pointerleave", release);
overlay.addEventListener("focusin", (event) => cellOf(event) && choose(cellOf(event)));
overlay.addEventListener("focusout", release);
overlay.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.activeElement.blur();
  if (!(event.key in STEPS)) return;
  event.preventDefault();
  step(STEPS[event.key]);
});

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function showTokens(wanted) {
  frame.classList.toggle("plain", !wanted);
  document.getElementById("show-clusters").setAttribute("aria-pressed", String(wanted));
  document.getElementById("show-picture").setAttribute("aria-pressed", String(!wanted));
  hint.hidden = !wanted;
}
