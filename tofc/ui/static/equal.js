// The smallest packet and the smallest image files that lead to the same answer: the server has to look for them.

import { strong } from "./answer.js";
import { post } from "./asking.js";
import { bytes, drawBars, times } from "./figures.js";

const $ = (id) => document.getElementById(id);
const HOW = "The same model gives the same answer from each of them. Packets were tried at every quality, image files"
  + " at the size that the model sees and at half of it, coded as far as that goes. This is one question; README.md has curves over many.";

export async function compare(said, asked, signal) {
  $("equal").hidden = !said.compared.length;
  if (!said.compared.length) return;
  const rows = said.compared.map((codec) => ({ name: `smallest ${codec}`, bytes: null, shown: "…" }));
  const draw = () => drawBars($("equal-bars"), rows);
  $("equal-note").textContent = "Looking for the least that leads to the same answer …";
  draw();
  for (const [index, codec] of said.compared.entries()) {
    const response = await post("api/smallest", { ...asked, answer: said.answer, codec }, signal);
    const found = (await response.json()).bytes;
    Object.assign(rows[index], { bytes: found, shown: found === null ? "none" : bytes(found) });
    draw();
  }
  const [ours, ...others] = rows.map((row) => row.bytes);
  const files = others.filter((size) => size !== null);
  $("equal-note").textContent = files.length ? HOW : `No image file that was tried leads to this answer. ${HOW}`;
  if (files.length && ours) {
    $("saving").append(" For this answer the smallest image file takes ",
      strong(`${times(Math.min(...files) / ours)} times`), " the smallest packet.");
  }
}
