// Where pictures come from: the examples, a file that is chosen, dropped or pasted, the camera.

import { shoot } from "./camera.js";
import { bytes } from "./figures.js";

const $ = (id) => document.getElementById(id);
const MOST_BYTES = 28e6;

let trouble = () => {}; // who is told what went wrong

export function offerExamples(examples, choose) {
  $("examples").hidden = !examples.length;
  $("examples").replaceChildren(...examples.map((example) => {
    const button = document.createElement("button"), image = new Image();
    button.type = "button";
    button.title = example.title;
    button.setAttribute("aria-pressed", "false");
    image.src = address(example);
    image.alt = example.title;
    button.append(image);
    button.onclick = () => choose(example).catch(trouble);
    return button;
  }));
}

export async function open(example) {
  const response = await fetch(address(example));
  if (!response.ok) throw new Error(`the server does not give ${example.name} (${response.status})`);
  return new File([await response.blob()], example.name);
}

const address = (example) => `examples/${encodeURIComponent(example.name)}`;

// Hands over every file that a person brings; `complain` is told of what is none.
export function listen(use, complain) {
  trouble = complain;
  const take = async (file) => {
    try {
      if (file.size > MOST_BYTES) {
        throw new Error(`that file has ${bytes(file.size)}; this page takes ${bytes(MOST_BYTES)}`);
      }
      await use(file);
    } catch (error) {
      complain(error);
    }
  };
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (file) take(file);
  });
  $("camera").addEventListener("click", () => shoot().then((file) => file && take(file)).catch(complain));
  addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData);
    if (file) take(file);
  });
  listenToDrops((data) => {
    const file = pictureOf(data);
    if (file) take(file);
    else complain(new Error("that is no picture; drop an image file"));
  });
}

const pictureOf = (data) => [...data.files].find((one) => one.type.startsWith("image/"));

function listenToDrops(take) {
  let depth = 0; // drags enter and leave every element on their way
  const set = (value) => { depth = value; document.body.classList.toggle("dropping", depth > 0); };
  addEventListener("dragenter", (event) => { event.preventDefault(); set(depth + 1); });
  addEventListener("dragleave", () => set(Math.max(0, depth - 1)));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); set(0); take(event.dataTransfer); });
}
