// The page is whole without this: it adds sorting, a filter for long tables, and the switch
// between light and dark. It asks for nothing and keeps nothing.
(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { button.textContent = dark() ? "light" : "dark"; };
  button.hidden = false;
  button.setAttribute("aria-label", "switch between light and dark");
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  system.addEventListener("change", name);
  name();

  // What is sorted by: the exact number, else the text; what is no number comes last.
  const key = (row, column) => {
    const cell = row.cells[column];
    const exact = cell.querySelector("[data-v]");
    if (!exact) return cell.textContent.trim();
    const names = { nan: NaN, inf: Infinity, "-inf": -Infinity };
    const text = exact.dataset.v;
    return text in names ? names[text] : Number(text);
  };
  const order = (a, b) => {
    const numbers = [typeof a === "number", typeof b === "number"];
    if (numbers[0] && numbers[1]) return Number.isNaN(a) - Number.isNaN(b) || a - b || 0;
    if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  const last = (value) => value === "\u2013" || Number.isNaN(value);

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const sort = document.createElement("button");
      sort.type = "button";
      sort.append(...head.childNodes);
      head.append(sort);
      // Up, down, and as it was.
      sort.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === "ascending" ? "descending" : now === "descending" ? null : "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        const sorted = [...rows];
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          const keyed = sorted.map((row) => [key(row, column), row]);
          keyed.sort((a, b) =>
            last(a[0]) - last(b[0]) || (last(a[0]) ? 0 : sign * order(a[0], b[0])));
          keyed.forEach((pair, index) => { sorted[index] = pair[1]; });
        }
        body.append(...sorted);
      });
    });
    if (rows.length <= 24) continue;
    const filter = document.createElement("input");
    filter.type = "search";
    filter.placeholder = "show rows with \u2026";
    filter.setAttribute("aria-label", "show rows with this text");
    filter.addEventListener("input", () => {
      const wanted = filter.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    table.parentElement.before(filter);
  }
})();
