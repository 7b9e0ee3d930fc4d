// The page's only script: click a heading to sort a table. Without it everything is still there to read.
document.querySelectorAll("table.sortable").forEach(table => {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const body = table.tBodies[0];
      const rows = Array.from(body.rows);
      const key = row => {
        const cell = row.cells[column];
        const raw = column === 0 ? cell.textContent : cell.dataset.value;
        return raw === undefined ? null : raw !== "" && !isNaN(raw) ? Number(raw) : raw;
      };
      rows.sort((a, b) => {
        const fixed = a.classList.contains("reference") - b.classList.contains("reference");
        if (fixed) return fixed;
        const x = key(a), y = key(b);
        if (x === null || y === null) return (x === null) - (y === null);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -order : order;
      });
      table.querySelectorAll("thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.forEach(row => body.appendChild(row));
    });
  });
});
