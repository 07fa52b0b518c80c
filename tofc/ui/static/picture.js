// The picture and its tokens: patches of one token are one shape, and pointing at it shows what it stands for.

const SVG = "http://www.w3.org/2000/svg";
const frame = document.getElementById("frame");
const overlay = document.getElementById("clusters");
const hint = document.getElementById("hint");
let summary = "";

export function showPicture(url) {
  const image = document.getElementById("picture");
  clearClusters();
  return new Promise((resolve, reject) => {
    image.onload = () => {
      document.getElementById("invite").hidden = true;
      frame.hidden = false;
      fit(image.naturalWidth, image.naturalHeight);
      resolve();
    };
    image.onerror = () => reject(new Error("this browser cannot show that file; try a JPEG or PNG"));
    image.src = url;
  });
}

function fit(width, height) {
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = `min(100%, calc(66vh * ${width / height}))`;
}

export function clearClusters() {
  overlay.classList.remove("chosen"); // what the pointer was on is gone
  overlay.replaceChildren();
  summary = "";
  hint.textContent = "";
}

export function drawClusters({ map, colours, seams, box }, { width, height }) {
  clearClusters();
  const [left, top, wide, tall] = box;
  const rows = map.length, columns = map[0].length;
  const shapes = colours.map(() => []);
  map.forEach((line, row) => line.forEach((cluster, column) => {
    shapes[cluster].push([left + (wide * column) / columns, top + (tall * row) / rows]);
  }));
  fit(width, height);
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.setAttribute("preserveAspectRatio", "none");
  const cells = shapes.map((patches, cluster) => {
    const path = element("path", {
      class: "cell", fill: colours[cluster],
      d: patches.map(([x, y]) => `M${x} ${y}h${wide / columns}v${tall / rows}h${-wide / columns}z`).join(""),
    });
    path.addEventListener("pointerover", () => choose(path, patches.length, rows * columns));
    return path;
  });
  overlay.replaceChildren(...cells, element("path", { class: "seams", d: seams }));
  overlay.onpointerleave = release;
  const used = shapes.filter((patches) => patches.length).length;
  summary = used < rows * columns
    ? `${rows * columns} patches became ${used} tokens. ${matchMedia("(hover: none)").matches ? "Tap" : "Point at"} one.`
    : `${used} tokens, one for each patch.`;
  hint.textContent = summary;
}

function choose(path, count, all) {
  overlay.querySelector(".here")?.classList.remove("here");
  path.classList.add("here");
  overlay.classList.add("chosen");
  hint.textContent = `This one token stands for ${count} of ${all} patches.`;
}

function release() {
  overlay.classList.remove("chosen");
  overlay.querySelector(".here")?.classList.remove("here");
  hint.textContent = summary;
}

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
