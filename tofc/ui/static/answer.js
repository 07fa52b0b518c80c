// The answer and everything that it took.

import { bytes, drawBars, drawSections, drawStages, times } from "./figures.js";
import { drawClusters } from "./picture.js";

const $ = (id) => document.getElementById(id);

export function wait(busy) {
  $("result").classList.toggle("busy", busy);
  if (!busy) $("result").classList.remove("growing");
}

export function clearAnswer(invitation) {
  clearTrouble();
  wait(false);
  $("answered").hidden = true;
  $("answer").textContent = "";
  $("waiting").textContent = invitation;
  $("waiting").hidden = false;
}

export function clearTrouble() {
  $("trouble").hidden = true;
}

export function showTrouble(message) {
  $("trouble").textContent = message;
  $("trouble").hidden = false;
  $("waiting").hidden = $("answered").hidden = true;
}

// An answer that is still growing: what it took is told when it is whole.
export function grow(pieces) {
  $("trouble").hidden = $("waiting").hidden = $("unsure").hidden = true;
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

export function show(said) {
  $("trouble").hidden = $("waiting").hidden = true;
  $("answered").hidden = false;
  write(said.pieces ?? [{ text: said.answer, state: "final", corrected: false }]);
  $("unsure").hidden = !said.unsure;
  if (said.unsure) {
    $("unsure").textContent = "unsure";
    $("unsure").title = `One of its words had a probability of only ${Math.round(100 * said.confidence)} %.`;
  }
  $("kinds").hidden = !said.drafted;
  if (said.drafted) {
    const { by, rounds, sent, stood } = said.drafted;
    $("drafts").textContent = `${stood} of ${by}'s ${sent} drafts stood, in ${rounds} rounds`;
  }
  const [usual] = said.sizes;
  $("saving").replaceChildren(
    strong(bytes(said.bytes)), ` travelled to the edge. The picture as a ${usual.name.replace(",", " of")} takes `,
    strong(`${times(usual.bytes / said.bytes)} times`), " as much.");
  drawBars($("bars"), [{ name: "TOFC packet", bytes: said.bytes }, ...said.sizes]);
  drawSections($("sections"), $("sections-legend"), said.sections);
  drawStages($("stages"), $("total"), said.stages);
  drawClusters(said.clusters, said.picture);
}

export function strong(text) {
  const made = document.createElement("b");
  made.textContent = text;
  return made;
}
