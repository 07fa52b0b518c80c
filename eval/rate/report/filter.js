// The gallery shows all questions, or those that tell something; what it leaves out is counted.
(() => {
  "use strict";
  const choices = document.querySelectorAll("#rows input");
  const show = (kind) => {
    for (const card of document.querySelectorAll(".card")) {
      const rows = [...card.querySelectorAll("tbody tr")];
      const left = rows.filter((row) => kind !== "all" && !row.classList.contains(kind));
      for (const row of rows) row.hidden = left.includes(row);
      card.querySelector("table").hidden = left.length === rows.length;
      card.querySelector(".hidden-rows").textContent = left.length === 0 ? "" :
        `${rows.length - left.length} of ${rows.length} questions are shown. ` +
        (kind === "differ" ? "All systems answered the others rightly." : "TOFC answered the others rightly.");
    }
  };
  if (matchMedia("(min-width: 46.01rem)").matches) // on a phone the answers open one by one
    for (const asked of document.querySelectorAll(".asked")) asked.open = true;
  for (const choice of choices) choice.addEventListener("change", () => show(choice.value));
  show(document.querySelector("#rows input:checked").value);
})();
