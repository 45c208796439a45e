// The rest of the page: tables that sort, the theme, copies of the data, and a state in the address.
"use strict";

(() => {
  const root = document.documentElement;

  function sortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[table.tHead.rows.length - 1].cells].forEach((cell, column) => {
      const button = cell.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = cell.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.sort ?? "";
        const rows = [...body.rows].sort((a, b) => {
          const [first, second] = [key(a), key(b)];
          // What was not measured stays at the end, whichever way.
          if (first === "" || second === "") return (first === "") - (second === "");
          const order = isNaN(first) || isNaN(second) ? first.localeCompare(second, undefined, { numeric: true }) : first - second;
          return down ? -order : order;
        });
        body.append(...rows);
      });
    });
  }

  function filterable() {
    const field = document.getElementById("filter");
    if (!field) return;
    const rows = [...document.querySelectorAll("#points tbody tr")];
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      document.getElementById("filtered").textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
    });
  }

  function seeds() {
    for (const box of document.querySelectorAll(".show-secondary")) {
      box.addEventListener("change", () => {
        for (const other of document.querySelectorAll(".show-secondary")) other.checked = box.checked;
        root.classList.toggle("all-seeds", box.checked);
      });
    }
  }

  function theme() {
    const button = document.getElementById("theme");
    const night = matchMedia("(prefers-color-scheme: dark)");
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : night.matches;
      root.dataset.theme = dark ? "light" : "dark";
      Charts.drawAll();
    });
  }

  function copies() {
    for (const button of document.querySelectorAll("[data-download]")) {
      button.addEventListener("click", () => {
        const text = document.getElementById(button.dataset.download).textContent;
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
        link.download = button.dataset.name;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      });
    }
  }

  function fromAddress() {
    const text = location.hash.slice(1);
    if (!text.includes("=")) return;
    const wanted = new URLSearchParams(text), change = {};
    if (["light", "dark"].includes(wanted.get("theme"))) root.dataset.theme = wanted.get("theme");
    if (["bpp", "bpp_payload"].includes(wanted.get("axis"))) change.axis = wanted.get("axis");
    for (const key of ["log", "intervals", "scaled", "panels"]) if (wanted.has(key)) change[key] = wanted.get(key) === "1";
    Charts.set(change);
    Gallery.fromNames(wanted);
    if (wanted.has("at")) document.getElementById(wanted.get("at"))?.scrollIntoView();
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
  filterable();
  seeds();
  theme();
  copies();
  Charts.start();
  Charts.set({});
  Gallery.start();
  fromAddress();
  addEventListener("hashchange", fromAddress);
})();
