// Bytes and times as bars: lengths are to scale, and every bar has its figure beside it.

const PARTS = ["features", "hyperprior", "router", "framing"];
const colours = (kind, count) => Array.from({ length: count }, (_, index) => `var(--${kind}-${index + 1})`);
const DEVICE = colours("device", 5), EDGE = colours("edge", 4), PART = colours("part", PARTS.length);

export const bytes = (n) => (n < 10_000 ? `${n.toLocaleString("en")} B`
  : n < 1e6 ? `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)} kB` : `${(n / 1e6).toFixed(1)} MB`);

export function times(ratio) {
  return ratio >= 10 ? Math.round(ratio).toLocaleString("en") : ratio.toFixed(1);
}

const milliseconds = (s) => (s < 0.00095 ? "<1 ms" : s < 1 ? `${Math.round(1e3 * s)} ms` : `${s.toFixed(1)} s`);

function make(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The first row is ours. A row without bytes has no bar, and says what it shows.
export function drawBars(target, rows) {
  const most = Math.max(...rows.map((row) => row.bytes ?? 0));
  target.replaceChildren(...rows.map((row, index) => {
    const line = make("div", index === 0 ? "bar ours" : "bar");
    const track = make("div", "track"), fill = make("div", "fill");
    fill.style.width = `${(100 * row.bytes) / most}%`;
    if (row.bytes !== null) track.append(fill);
    line.append(make("span", "what", row.name), track, make("span", "figure", row.shown ?? bytes(row.bytes)));
    return line;
  }));
}

function stack(target, parts, colours) {
  target.replaceChildren(...parts.map(({ value, name }, index) => {
    const piece = make("i");
    piece.style.flex = `${1e6 * value} 1 0`; // shares that sum to less than 1 would not fill the bar
    piece.style.background = colours[index % colours.length];
    piece.title = name;
    return piece;
  }));
}

function legend(target, parts, colours) {
  target.replaceChildren(...parts.map(({ name, shown }, index) => {
    const item = make("li"), dot = make("i");
    dot.style.background = colours[index % colours.length];
    item.append(dot, name, " ", make("b", "", shown));
    return item;
  }));
}

export function drawSections(target, list, sections) {
  // Header, tag, layout, counts, the coder's state and the checksum are a few bytes each: shown as one.
  const sizes = Object.fromEntries(PARTS.map((name) => [name, 0]));
  for (const [name, size] of Object.entries(sections)) sizes[name in sizes ? name : "framing"] += size;
  const parts = Object.entries(sizes).map(([name, size]) => ({ name, value: size, shown: bytes(size) }));
  stack(target, parts, PART);
  legend(list, parts, PART);
}

export function drawStages(target, total, stages) {
  const whole = stages.reduce((sum, stage) => sum + stage.seconds, 0);
  total.textContent = milliseconds(whole);
  target.replaceChildren(...["device", "edge"].map((side) => {
    const own = stages.filter((stage) => stage.side === side);
    const spent = own.reduce((sum, stage) => sum + stage.seconds, 0);
    const parts = own.map(({ name, seconds }) => ({ name, value: seconds, shown: milliseconds(seconds) }));
    const colours = side === "device" ? DEVICE : EDGE;
    const row = make("div", "side"), name = make("p", "name", side === "device" ? "Device" : "Edge");
    const bar = make("div", "stack"), list = make("ul", "legend");
    name.append(make("span", "", milliseconds(spent)));
    stack(bar, parts, colours);
    bar.style.width = `${Math.max(4, (100 * spent) / whole)}%`;
    legend(list, parts, colours);
    row.append(name, bar, list);
    return row;
  }));
}
