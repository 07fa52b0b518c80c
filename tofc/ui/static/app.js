// The page: a picture and a question go to the server, and what it says about them is drawn.

import { clearAnswer, clearTrouble, grow, show, showTrouble, wait } from "./answer.js";
import { post, streamed } from "./asking.js";
import { chosen, offer, whenChanged } from "./dials.js";
import { compare } from "./equal.js";
import { clearClusters, readPicture, showPicture, showTokens } from "./picture.js";
import { listen, offerExamples, open } from "./sources.js";
import { told } from "./terminal.js";

const $ = (id) => document.getElementById(id);

let model = null; // what the server says of it
let picture = null; // { data, name, path }: the file in base64, and what to call it
let latest = 0; // the picture that was chosen last, of those that are still being read
let running = null; // what aborts the request on its way

async function start() {
  const response = await fetch("api/options");
  if (!response.ok) throw new Error(`the server does not give api/options (${response.status})`);
  model = await response.json();
  $("model").textContent = model.model;
  $("knows").textContent = model.knows && `What ${model.model} knows: ${model.knows}`;
  $("knows").hidden = !model.knows;
  offer(model);
  offerQuestions(model.questions);
  offerExamples(model.examples, choose);
  if (model.examples.length) await choose(model.examples[0]);
}

// -- the picture --

async function choose(example) {
  if (!await take(open(example), example)) return;
  $("question").value = example.questions[0];
  await ask();
}

// A new picture: nothing that was asked or said about the one before it stays. A file that is none leaves it.
async function take(file, example = null) {
  const mine = ++latest, opened = await file, read = await readPicture(opened);
  if (mine !== latest) return false;
  running?.abort();
  const name = opened.name || "picture.jpg";
  picture = { data: read.data, name, path: example?.path ?? name };
  showPicture(read);
  $("picture-trouble").hidden = true;
  for (const one of $("examples").children) one.setAttribute("aria-pressed", String(one.title === example?.title));
  $("question").value = "";
  offerQuestions(example?.questions ?? model.questions);
  clearAnswer("Ask something about this picture.");
  if (!example && !matchMedia("(hover: none)").matches) $("question").focus({ preventScroll: true });
  return true;
}

function pictureTrouble(error) {
  $("picture-trouble").textContent = sentence(error);
  $("picture-trouble").hidden = false;
}

// -- the question --

function offerQuestions(questions) {
  $("chips").replaceChildren(...questions.map((question) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = question;
    chip.onclick = () => { $("question").value = question; askAndGo(); };
    return chip;
  }));
}

async function ask() {
  running?.abort();
  const question = $("question").value.trim();
  if (!picture || !question) {
    showTrouble(picture ? "Write a question first." : "Choose a picture first.");
    return;
  }
  const mine = running = new AbortController(), dials = chosen();
  const asked = { image: picture.data, question, tokens: dials.tokens, exit: dials.exit };
  clearTrouble();
  wait(true);
  try {
    const { quality, draft, trip } = dials;
    const body = { ...asked, quality, draft, round_trip_ms: trip };
    for await (const said of streamed(await post("api/ask", body, mine.signal))) {
      if (said.growing) { grow(said.growing); continue; }
      show(said);
      told(said, { question, picture, model, exit: dials.exit });
      wait(false);
      await compare(said, asked, mine.signal);
    }
  } catch (error) {
    if (error.name !== "AbortError") { showTrouble(sentence(error)); clearClusters(); }
  } finally {
    if (running === mine) { running = null; wait(false); }
  }
}

// What a person asked is shown to them: on a small screen the answer is below what is seen.
async function askAndGo() {
  if (matchMedia("(hover: none)").matches) document.activeElement?.blur(); // the keyboard would cover it
  const asking = ask();
  goTo($("result"));
  await asking;
}

function goTo(element) {
  const { top } = element.getBoundingClientRect();
  if (top >= 0 && top < innerHeight - 200) return; // room for an answer
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

function sentence(error) {
  const message = error instanceof TypeError ? "the server does not answer; is tofc demo-ui still running?" : error.message;
  return message.charAt(0).toUpperCase() + message.slice(1);
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); askAndGo(); });
$("show-picture").addEventListener("click", () => showTokens(false));
$("show-clusters").addEventListener("click", () => showTokens(true));
whenChanged(() => { if (picture && $("question").value.trim()) ask(); });
listen((file) => take(file), pictureTrouble);
start().catch((error) => showTrouble(sentence(error)));
