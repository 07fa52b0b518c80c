// The page: a picture and a question go to the server, and everything it says about them is drawn.

import { shoot } from "./camera.js";
import { bytes, drawBars, drawSections, drawStages, times } from "./figures.js";
import { clearClusters, drawClusters, showPicture, showTokens } from "./picture.js";

const $ = (id) => document.getElementById(id);
const CHIPS = ["What is in this picture?", "How many cars are there?", "Is there a bus in the picture?"];
const MOST_BYTES = 28e6;

let picture = null; // base64 of the file
let running = null; // what aborts the request on its way
let later = 0;

async function start() {
  const [options, examples] = await Promise.all(["api/options", "examples.json"].map(load));
  $("model").textContent = options.model;
  $("quality").min = options.qualities[0];
  $("quality").max = options.qualities.at(-1);
  $("quality").value = options.quality;
  $("tokens").max = options.max_tokens;
  $("tokens").value = options.tokens;
  $("tokens-most").textContent = `all ${options.max_tokens}`;
  offerExits(options);
  offerDrafters(options);
  if (options.model === "scenes-tiny") {
    $("caution").textContent = "scenes-tiny has learned rendered street scenes alone, such as the three here: what it "
      + "says of other pictures shows the way through the bitstream, not what a large model would answer.";
  }
  showDials();
  offerExamples(examples);
  await choose(examples[0]);
}

async function load(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`the server does not give ${address} (${response.status})`);
  return response.json();
}

function offerExits({ exits, exit }) {
  $("exit").replaceChildren(...exits.map(({ name, share }) =>
    new Option(share < 1 ? `${name} (${Math.round(100 * share)} %)` : "the full model", name, false, name === exit)));
  $("exit").disabled = exits.length < 2;
  const notes = new Map(exits.map((e) => [e.name, `${(e.parameters / 1e6).toFixed(1)} M parameters`]));
  const say = () => { $("exit-note").textContent = notes.get($("exit").value) ?? ""; };
  $("exit").addEventListener("change", say);
  say();
}

// Who can draft: members smaller than the one that answers.
function offerDrafters({ exits }) {
  const sizes = new Map(exits.map((one) => [one.name, one.parameters]));
  const offer = () => {
    const chosen = $("draft").value, most = sizes.get($("exit").value);
    const able = exits.filter((one) => one.parameters < most);
    $("draft").replaceChildren(new Option("nobody", ""), ...able.map(({ name }) => new Option(name, name)));
    $("draft").value = able.some((one) => one.name === chosen) ? chosen : "";
    $("draft").disabled = able.length === 0;
    $("trip-dial").hidden = !$("draft").value;
  };
  $("exit").addEventListener("change", offer);
  $("draft").addEventListener("change", offer);
  offer();
}

// -- what is asked --

function offerExamples(examples) {
  $("examples").replaceChildren(...examples.map((example) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    button.title = example.name;
    button.setAttribute("aria-pressed", "false");
    image.src = example.file;
    image.alt = example.name;
    button.append(image);
    button.onclick = () => choose(example).catch(trouble);
    example.button = button;
    return button;
  }));
}

async function choose(example) {
  const response = await fetch(example.file);
  if (!response.ok) throw new Error(`the server does not give ${example.file} (${response.status})`);
  $("question").value = example.questions[0];
  offerQuestions(example.questions);
  await take(await response.blob(), example.button);
}

function offerQuestions(questions) {
  $("chips").replaceChildren(...questions.map((question) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = question;
    chip.onclick = () => { $("question").value = question; ask(); };
    return chip;
  }));
}

async function take(file, button = null) {
  if (file.size > MOST_BYTES) throw new Error(`that file has ${bytes(file.size)}; this page takes ${bytes(MOST_BYTES)}`);
  for (const other of $("examples").children) other.setAttribute("aria-pressed", String(other === button));
  if (!button) offerQuestions(CHIPS);
  $("caution").hidden = button !== null || !$("caution").textContent;
  const url = URL.createObjectURL(file);
  try {
    await showPicture(url);
  } finally {
    URL.revokeObjectURL(url);
  }
  picture = await base64(file);
  await ask();
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("the file cannot be read"));
    reader.readAsDataURL(file);
  });
}

// -- asking --

async function ask() {
  const question = $("question").value.trim();
  if (!picture || !question) {
    trouble(new Error(picture ? "write a question first" : "choose a picture first"));
    return;
  }
  running?.abort();
  const mine = running = new AbortController();
  $("result").classList.add("busy");
  try {
    const response = await fetch("api/ask", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        image: picture, question, quality: Number($("quality").value), tokens: Number($("tokens").value),
        exit: $("exit").value, draft: $("draft").value || null, round_trip_ms: Number($("trip").value),
      }),
      signal: mine.signal,
    });
    if (!response.ok) {
      const said = await response.json().catch(() => ({}));
      throw new Error(said.error?.message ?? `the server failed (${response.status})`);
    }
    for await (const said of lines(response.body)) {
      if (said.growing) grow(said.growing);
      else show(said);
    }
  } catch (error) {
    if (error.name !== "AbortError") trouble(error);
  } finally {
    if (running === mine) {
      running = null;
      $("result").classList.remove("busy", "growing");
    }
  }
}

// Objects of a stream with one in each line.
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const whole = (rest + value).split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
  if (rest) yield JSON.parse(rest);
}

// An answer that is still growing: what it took is told when it is whole.
function grow(pieces) {
  $("trouble").hidden = $("waiting").hidden = true;
  $("answered").hidden = false;
  $("result").classList.add("growing");
  $("saving").textContent = $("drafts").textContent = "";
  $("kinds").hidden = false;
  write(pieces);
  $("answer").classList.add("long"); // it would shrink on the way
}

function write(pieces) {
  const text = pieces.map((piece) => piece.text).join("").trim();
  $("answer").className = `answer${text.length > 60 ? " long" : ""}${text ? "" : " none"}`;
  if (!text) $("answer").textContent = "(no words)";
  else $("answer").replaceChildren(...pieces.map(({ text, state, corrected }) => {
    const span = document.createElement("span");
    span.className = corrected ? `${state} corrected` : state;
    span.textContent = text;
    return span;
  }));
}

function show(said) {
  $("trouble").hidden = $("waiting").hidden = true;
  $("answered").hidden = false;
  write(said.pieces ?? [{ text: said.answer, state: "final", corrected: false }]);
  $("kinds").hidden = !said.drafted;
  if (said.drafted) {
    const { by, rounds, sent, stood } = said.drafted;
    $("drafts").textContent = `${stood} of ${by}'s ${sent} drafts stood, in ${rounds} rounds`;
  }
  const usual = said.sizes.find((size) => size.name.startsWith("JPEG"));
  const ratio = document.createElement("b"), ours = document.createElement("b");
  ours.textContent = bytes(said.bytes);
  ratio.textContent = `1/${times(usual.bytes / said.bytes)}`;
  $("saving").replaceChildren(ours, " travelled to the edge, ", ratio, " of the picture as a JPEG.");
  drawBars($("bars"), said.bytes, said.sizes);
  drawSections($("sections"), $("sections-legend"), said.sections);
  drawStages($("stages"), $("total"), said.stages);
  drawClusters(said.clusters, said.picture);
}

function trouble(error) {
  const message = error instanceof TypeError ? "the server does not answer; is tofc demo-ui still running?" : error.message;
  $("trouble").textContent = message.charAt(0).toUpperCase() + message.slice(1);
  $("trouble").hidden = false;
  $("waiting").hidden = true;
  $("answered").hidden = true;
  clearClusters();
}

// -- what people do --

function showDials() {
  $("quality-value").textContent = $("quality").value;
  $("tokens-value").textContent = $("tokens").value;
}

for (const id of ["quality", "tokens", "exit", "draft", "trip"]) {
  $(id).addEventListener("input", () => {
    showDials();
    clearTimeout(later);
    later = setTimeout(ask, 250);
  });
}
$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) take(file).catch(trouble);
});
$("camera").addEventListener("click", () => shoot().then((file) => file && take(file)).catch(trouble));
$("show-picture").addEventListener("click", () => showTokens(false));
$("show-clusters").addEventListener("click", () => showTokens(true));

let depth = 0; // drags enter and leave every element on their way
addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; document.body.classList.add("dropping"); });
addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) document.body.classList.remove("dropping"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  const file = [...event.dataTransfer.files].find((one) => one.type.startsWith("image/"));
  if (file) take(file).catch(trouble);
  else trouble(new Error("that is no picture; drop an image file"));
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) take(file).catch(trouble);
});

start().catch(trouble);
