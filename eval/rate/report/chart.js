// The curves: drawn to the width there is, with a tooltip for mouse, finger and keyboard.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("curves-data").textContent);
  const root = document.getElementById("chart");
  const state = { form: data.headline, hidden: new Set(), at: null };
  const NEAR = 45; // pixels within which a point is taken

  const make = (name, attributes = {}, text = "") => {
    const svg = ["svg", "g", "path", "line", "circle", "rect", "text", "title"].includes(name);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    return element;
  };
  const bytes = (n) => n.toLocaleString("en", { maximumFractionDigits: 0 });
  const percent = (share) => (100 * share).toFixed(1);
  const dash = (system) => ({ "--": "7 4", ":": "2 4" })[system.line] || "none";
  const of = (point) => point.accuracy[state.form];

  // Controls that stay, and the drawing that is made anew.
  const tabs = make("fieldset", { class: "segments" });
  tabs.append(make("legend", {}, "Questions"));
  for (const form of data.forms) {
    const label = make("label");
    const input = make("input", { type: "radio", name: "form", value: form.key });
    input.checked = form.key === state.form;
    input.addEventListener("change", () => { state.form = form.key; state.at = null; draw(); });
    label.append(input, " " + form.label);
    tabs.append(label);
  }
  const figure = make("div", { style: "position: relative" });
  const tip = make("div", { class: "tip", hidden: "" });
  const spoken = make("p", { "aria-live": "polite", style: "position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden" });
  const legend = make("div", { class: "legend", role: "group", "aria-label": "Systems shown" });
  for (const system of data.systems) {
    const button = make("button", { type: "button", "aria-pressed": "true", "data-system": system.key });
    const sample = make("svg", { viewBox: "0 0 28 12", style: `--c: var(--c-${system.key})`, "aria-hidden": "true" });
    if (system.line !== "none") sample.append(make("path", { class: "line", d: "M0 6H28", "stroke-dasharray": dash(system) }));
    sample.append(marker(system.marker, { x: 14, y: 6 }, 4));
    button.append(sample, system.label);
    button.addEventListener("click", () => {
      const gone = state.hidden.delete(system.key) ? false : Boolean(state.hidden.add(system.key));
      button.setAttribute("aria-pressed", String(!gone));
      state.at = null;
      draw();
    });
    button.addEventListener("pointerenter", () => emphasise(system.key));
    button.addEventListener("pointerleave", () => emphasise(null));
    legend.append(button);
  }
  root.replaceChildren(tabs, figure, legend, spoken);

  let places = []; // what can be pointed at: {system, index, x, y, best}
  let scale = null;

  function draw() {
    const width = Math.max(280, root.clientWidth), height = Math.round(Math.min(540, Math.max(340, width * 0.52)));
    const box = { left: 46, right: width - 12, top: 16, bottom: height - 42 };
    const shown = data.systems.filter((system) => !state.hidden.has(system.key));
    const best = shown.flatMap((system) => system.front[state.form].map((i) => system.points[i]));
    const sizes = best.map((point) => point.bytes[0]), levels = best.map((point) => of(point)[0]);
    const raw = data.systems.find((system) => system.key === "raw").points[0];
    const low = Math.max(0, Math.min(...levels, of(raw)[0]) - 0.03), high = Math.min(1, Math.max(...levels, of(raw)[0]) + 0.02);
    const [first, last] = [Math.log(Math.min(...sizes, Infinity) * 0.9), Math.log(Math.max(...sizes) * 1.12)];
    const x = (size) => box.left + (box.right - box.left) * (Math.log(size) - first) / (last - first || 1);
    const y = (level) => box.bottom - (box.bottom - box.top) * (level - low) / (high - low || 1);
    scale = { x, y, box, width, height };
    const label = data.forms.find((form) => form.key === state.form).label;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "application",
      "aria-label": `${label}: accuracy over bytes of ${shown.length} systems. Arrow keys walk along the fronts; the table of every point has the same numbers.` });
    const clip = make("svg", { x: 0, y: 0, width, height: box.bottom + 4, viewBox: `0 0 ${width} ${box.bottom + 4}` });
    if (shown.length) axes(svg, x, y, box, first, last, low, high);
    places = [];
    for (const [below, words] of [[0, "uncoded"], [0.01, "1 point less"]]) {
      const at = y(of(raw)[0] - below);
      svg.append(make("line", { class: "reference", x1: box.left, x2: box.right, y1: at, y2: at, "stroke-dasharray": below ? "2 4" : "none" }));
      svg.append(make("text", { x: box.right - 12, y: below ? at + 13 : at - 5, "text-anchor": "end" }, words));
    }
    for (const system of [...shown].reverse()) clip.append(curve(system, x, y));
    svg.append(clip, make("g", { class: "hover" }));
    svg.addEventListener("pointermove", (event) => pointAt(event, svg));
    svg.addEventListener("pointerdown", (event) => pointAt(event, svg));
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(null); });
    svg.addEventListener("keydown", walk);
    svg.addEventListener("blur", () => show(null));
    const focused = figure.contains(document.activeElement);
    figure.replaceChildren(svg, tip);
    if (focused) svg.focus({ preventScroll: true });
    show(null);
  }

  function axes(svg, x, y, box, first, last, low, high) {
    const narrow = box.right - box.left < 480;
    for (let decade = 1; decade < 1e9; decade *= 10) {
      for (const step of narrow ? [1, 3] : [1, 2, 5]) {
        const size = decade * step;
        if (Math.log(size) < first || Math.log(size) > last) continue;
        svg.append(make("line", { class: "grid", x1: x(size), x2: x(size), y1: box.top, y2: box.bottom }));
        svg.append(make("text", { x: x(size), y: box.bottom + 16, "text-anchor": "middle" }, size >= 1e6 ? `${size / 1e6}M` : size >= 1e4 ? `${size / 1e3}k` : bytes(size)));
      }
    }
    const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((s) => (high - low) / s <= 8) || 0.5;
    for (let level = Math.ceil(low / step) * step; level <= high + 1e-9; level += step) {
      svg.append(make("line", { class: "grid", x1: box.left, x2: box.right, y1: y(level), y2: y(level) }));
      svg.append(make("text", { x: box.left - 6, y: y(level) + 4, "text-anchor": "end" }, (100 * level).toFixed(0)));
    }
    svg.append(make("text", { x: (box.left + box.right) / 2, y: box.bottom + 35, "text-anchor": "middle" }, "bytes a picture, mean (log)"));
    svg.append(make("text", { x: 4, y: 11 }, "accuracy %"));
  }

  function curve(system, x, y) {
    const group = make("g", { class: system.key === "tofc" ? "ours" : "", "data-system": system.key, style: `--c: var(--c-${system.key})` });
    const front = system.front[state.form].map((i) => system.points[i]);
    const path = (points, level) => points.map((p) => `${x(p.bytes[0]).toFixed(1)} ${y(of(p)[level]).toFixed(1)}`).join("L");
    if (front.length > 1) {
      group.append(make("path", { class: "band", d: `M${path(front, 1)}L${path([...front].reverse(), 2)}Z` }));
      group.append(make("path", { class: "line", d: `M${path(front, 0)}`, "stroke-dasharray": dash(system) }));
    }
    system.points.forEach((point, index) => {
      const best = system.front[state.form].includes(index), at = { x: x(point.bytes[0]), y: y(of(point)[0]) };
      const inside = at.x >= scale.box.left - 8 && at.x <= scale.box.right + 8 && at.y <= scale.box.bottom;
      if (!best && !inside) return;
      group.append(best ? marker(system.marker, at, system.key === "tofc" ? 5 : 4) : make("circle", { class: "dot", cx: at.x, cy: at.y, r: 2 }));
      places.push({ system, index, best, ...at });
    });
    return group;
  }

  function marker(kind, at, size) {
    const s = size, shapes = {
      s: `M${-s} ${-s}h${2 * s}v${2 * s}h${-2 * s}z`, D: `M0 ${-1.3 * s}L${1.3 * s} 0 0 ${1.3 * s} ${-1.3 * s} 0z`,
      "^": `M0 ${-1.2 * s}L${1.2 * s} ${s}h${-2.4 * s}z`, v: `M0 ${1.2 * s}L${1.2 * s} ${-s}h${-2.4 * s}z`,
      P: `M${-s / 2} ${-1.2 * s}h${s}v${0.7 * s}h${0.7 * s}v${s}h${-0.7 * s}v${0.7 * s}h${-s}v${-0.7 * s}h${-0.7 * s}v${-s}h${0.7 * s}z`,
      "*": `M0 ${-1.6 * s}L${0.45 * s} ${-0.5 * s} ${1.6 * s} ${-0.5 * s} ${0.7 * s} ${0.25 * s} ${s} ${1.4 * s} 0 ${0.75 * s} ${-s} ${1.4 * s} ${-0.7 * s} ${0.25 * s} ${-1.6 * s} ${-0.5 * s} ${-0.45 * s} ${-0.5 * s}z`,
    };
    return shapes[kind]
      ? make("path", { class: "marker", d: shapes[kind], transform: `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})` })
      : make("circle", { class: "marker", cx: at.x, cy: at.y, r: s });
  }

  function pointAt(event, svg) {
    const frame = svg.getBoundingClientRect(), zoom = scale.width / frame.width;
    const [px, py] = [(event.clientX - frame.left) * zoom, (event.clientY - frame.top) * zoom];
    let nearest = null, least = NEAR;
    for (const place of places) {
      const far = Math.hypot(place.x - px, place.y - py) + (place.best ? 0 : 6); // fronts first
      if (far < least) [nearest, least] = [place, far];
    }
    show(nearest);
  }

  function walk(event) {
    const fronts = data.systems.filter((system) => places.some((p) => p.system === system && p.best))
      .map((system) => places.filter((p) => p.system === system && p.best).sort((a, b) => a.x - b.x));
    if (event.key === "Escape") return show(null);
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key) || !fronts.length) return;
    event.preventDefault();
    if (!state.at || !state.at.best) return show(fronts[0][0], true);
    let row = fronts.findIndex((front) => front.includes(state.at)), column = fronts[row].indexOf(state.at);
    if (event.key === "ArrowLeft") column = Math.max(0, column - 1);
    if (event.key === "ArrowRight") column = Math.min(fronts[row].length - 1, column + 1);
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      row = (row + (event.key === "ArrowUp" ? fronts.length - 1 : 1)) % fronts.length;
      column = fronts[row].reduce((best, p, i) => (Math.abs(p.x - state.at.x) < Math.abs(fronts[row][best].x - state.at.x) ? i : best), 0);
    }
    show(fronts[row][column], true);
  }

  function emphasise(key) {
    for (const group of figure.querySelectorAll("g[data-system]")) {
      group.classList.toggle("pale", key !== null && group.dataset.system !== key && group.dataset.system !== "tofc");
      group.classList.toggle("strong", group.dataset.system === key);
    }
  }

  function show(place, aloud = false) {
    state.at = place;
    const layer = figure.querySelector(".hover");
    layer.replaceChildren();
    emphasise(place ? place.system.key : null);
    tip.hidden = !place;
    if (!place) return;
    const { system } = place, point = system.points[place.index], [value, low, high] = of(point);
    layer.setAttribute("style", `--c: var(--c-${system.key})`);
    const same = point.tofc[state.form];
    if (same && system.key !== "tofc" && !state.hidden.has("tofc"))
      layer.append(make("line", { class: "level", x1: scale.x(same[0]), x2: place.x, y1: place.y, y2: place.y }));
    layer.append(make("line", { class: "interval", x1: place.x, x2: place.x, y1: Math.min(scale.box.bottom, scale.y(low)), y2: Math.max(0, scale.y(high)) }));
    layer.append(make("circle", { class: "ring", cx: place.x, cy: place.y, r: 8 }));
    const rows = [
      ["accuracy", `${percent(value)} %`],
      ["95 % interval", `${percent(low)} to ${percent(high)} %`],
      ["bytes, mean", bytes(point.bytes[0])],
      ["median, 95th pct.", `${bytes(point.bytes[1])}, ${bytes(point.bytes[2])}`],
      ["visual tokens", bytes(point.tokens)],
    ];
    if (system.key !== "tofc") {
      rows.push(["TOFC gets there with", same ? `${same[1] ? "≤ " : ""}${bytes(same[0])} bytes` : "no bytes tried"]);
    }
    const list = make("dl");
    for (const [key, text] of rows) list.append(make("dt", {}, key), make("dd", {}, text));
    const name = make("b", {}, system.label);
    name.prepend(make("i", { class: "swatch", style: `--c: var(--c-${system.key})` }));
    tip.replaceChildren(name, `${point.name}${place.best ? "" : " (behind the front)"}`, list);
    const zoom = figure.clientWidth / scale.width, wide = tip.offsetWidth, tall = tip.offsetHeight;
    const left = place.x * zoom + 18 + wide > figure.clientWidth ? place.x * zoom - wide - 18 : place.x * zoom + 18;
    tip.style.left = `${Math.max(0, Math.min(left, figure.clientWidth - wide))}px`;
    const under = figure.clientWidth < 520; // a narrow screen has no room beside the point
    tip.style.top = under ? `${scale.height - 4}px` : `${Math.max(0, Math.min(place.y - tall / 2, scale.height - tall))}px`;
    if (aloud) spoken.textContent = `${system.label}, ${point.name}: ` + rows.map((row) => row.join(" ")).join("; ");
  }

  draw();
  let width = root.clientWidth;
  new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } }).observe(root);
})();
