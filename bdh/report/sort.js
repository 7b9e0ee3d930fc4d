// The page's only script: a heading sorts its table, a field narrows the headline table, a button unfolds everything.
// Without it everything is still there to read.
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
document.querySelectorAll("table.filtered").forEach(table => {
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "Show only ...";
  field.setAttribute("aria-label", "Show only variants whose row holds this text");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase().split(/\s+/);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => text.includes(word));
    }
  });
  table.parentElement.insertBefore(field, table);
});
document.querySelectorAll("nav").forEach(nav => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Unfold all";
  button.addEventListener("click", () => {
    const open = button.textContent === "Unfold all";
    document.querySelectorAll("details").forEach(fold => { fold.open = open; });
    button.textContent = open ? "Fold all" : "Unfold all";
  });
  nav.appendChild(button);
});
