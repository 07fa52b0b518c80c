// The options: how much travels, who answers, who drafts.

const $ = (id) => document.getElementById(id);
const DIALS = ["quality", "tokens", "exit", "draft", "trip"];

export function offer(model) {
  $("quality").min = model.qualities[0];
  $("quality").max = model.qualities.at(-1);
  $("quality").value = model.quality;
  $("tokens").max = model.max_tokens;
  $("tokens").value = model.tokens;
  $("tokens-most").textContent = `all ${model.max_tokens}`;
  $("exit-dial").hidden = $("draft-dial").hidden = model.exits.length < 2;
  offerExits(model);
  offerDrafters(model);
  showValues();
}

export function chosen() {
  return {
    quality: Number($("quality").value), tokens: Number($("tokens").value), exit: $("exit").value,
    draft: $("draft").value || null, trip: Number($("trip").value),
  };
}

// Calls back a moment after the last change: a slider passes many values on its way.
export function whenChanged(act) {
  let later = 0;
  for (const id of DIALS) {
    $(id).addEventListener("input", () => {
      showValues();
      clearTimeout(later);
      later = setTimeout(act, 250);
    });
  }
}

function showValues() {
  $("quality-value").textContent = $("quality").value;
  $("tokens-value").textContent = $("tokens").value;
}

function offerExits({ exits, exit }) {
  $("exit").replaceChildren(...exits.map(({ name, share }) =>
    new Option(share < 1 ? `${name} (${Math.round(100 * share)} %)` : "the full model", name, false, name === exit)));
  const notes = new Map(exits.map((one) => [one.name, `${(one.parameters / 1e6).toFixed(1)} M parameters`]));
  const say = () => { $("exit-note").textContent = notes.get($("exit").value) ?? ""; };
  $("exit").addEventListener("change", say);
  say();
}

// Who can draft: members smaller than the one that answers.
function offerDrafters({ exits }) {
  const sizes = new Map(exits.map((one) => [one.name, one.parameters]));
  const update = () => {
    const before = $("draft").value, most = sizes.get($("exit").value);
    const able = exits.filter((one) => one.parameters < most);
    $("draft").replaceChildren(new Option("nobody", ""), ...able.map(({ name }) => new Option(name, name)));
    $("draft").value = able.some((one) => one.name === before) ? before : "";
    $("draft").disabled = able.length === 0;
    $("trip-dial").hidden = !$("draft").value;
  };
  $("exit").addEventListener("change", update);
  $("draft").addEventListener("change", update);
  update();
}
