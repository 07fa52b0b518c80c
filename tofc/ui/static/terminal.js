// The same outside of the page: the packet as a file, and the command that asks the same.

const $ = (id) => document.getElementById(id);
const DOWNLOAD = $("download"), COPY = $("copy"), LABEL = COPY.textContent;

let address = "";

export function told(said, { question, picture, model, exit }) {
  URL.revokeObjectURL(address);
  const packet = Uint8Array.from(atob(said.packet), (one) => one.charCodeAt(0));
  address = URL.createObjectURL(new Blob([packet], { type: "application/octet-stream" }));
  DOWNLOAD.href = address;
  DOWNLOAD.download = `${picture.name.replace(/\.[^.]*$/, "")}.tofc`;
  const words = ["tofc", "ask", picture.path, question, "--model", model.source,
    "--quality", said.quality, "--tokens", said.tokens, ...(exit === model.exit ? [] : ["--exit", exit])];
  const shown = words.flatMap((word) => [" ", unbroken(quoted(word))]).slice(1);
  $("command").replaceChildren(...shown);
}

// A word that a line takes whole where it can: browsers would break options at their hyphens.
function unbroken(text) {
  const word = document.createElement("span");
  word.textContent = text;
  return word;
}

// A word as a POSIX shell reads it.
function quoted(word) {
  const text = String(word);
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

COPY.addEventListener("click", async () => {
  const copied = await navigator.clipboard?.writeText($("command").textContent).then(() => true, () => false);
  if (!copied) { // no clipboard over plain http: one key is left to press
    getSelection().selectAllChildren($("command"));
    $("command").scrollIntoView({ block: "center" });
  }
  COPY.textContent = copied ? "Copied" : "Selected: press Ctrl-C";
  setTimeout(() => { COPY.textContent = LABEL; }, 2000);
});
