// Draws the charts, sorts and filters the tables, copies the commands. Without it the page still reads.
"use strict";
(async () => {
  const { config, specs } = JSON.parse(document.getElementById("charts").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const options = { config, renderer: "svg", actions: false, mode: "vega-lite" };
  const drawn = await Promise.allSettled(places.map((place) => vegaEmbed(place, specs[place.dataset.chart], options)));
  drawn.forEach((result, index) => {
    if (result.status === "fulfilled") return;
    console.error(places[index].dataset.chart, result.reason);
    places[index].textContent = "This chart could not be drawn.";
  });
  document.documentElement.dataset.drawn = drawn.filter((result) => result.status === "fulfilled").length;
})();

const valueOf = (cell) => {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text.replace(/[,%]/g, ""));
  return text === "" || Number.isNaN(number) ? text.toLowerCase() : number;
};

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (button?.className === "copy") {
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } else if (button?.className === "sort") {
    const head = button.parentElement;
    const body = head.closest("table").tBodies[0];
    const index = head.cellIndex;
    const down = head.classList.contains("number") ? head.ariaSort !== "descending" : head.ariaSort === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.ariaSort = down ? "descending" : "ascending";
    const rows = [...body.rows].map((row) => [valueOf(row.cells[index]), row]);
    const before = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
    rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : down ? before(b, a) : before(a, b)));
    body.append(...rows.map(([, row]) => row));
  }
});

for (const input of document.querySelectorAll("[data-filters]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of document.getElementById(input.dataset.filters).tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

for (const matrix of document.querySelectorAll(".matrix")) {
  const told = matrix.closest("section").querySelector(".matrix-told");
  const tell = (event) => {
    if (event.target.tagName === "I") told.textContent = event.target.title;
  };
  matrix.addEventListener("pointerover", tell);
  matrix.addEventListener("click", tell);
}

// A link into something folded opens it; paper shows what is folded on the screen.
const unfold = () => document.querySelector(location.hash || "#summary")?.closest("details")?.setAttribute("open", "");
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open], .config)")) {
    folded.open = true;
    folded.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const folded of document.querySelectorAll("details[data-folded]")) {
    folded.open = false;
    delete folded.dataset.folded;
  }
});
