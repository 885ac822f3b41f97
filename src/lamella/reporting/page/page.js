// What the page can do beyond being read: sort fingerprints and tables, tell their numbers, slide through levels, follow a live run.
// Nothing here makes markup out of data: text is set as text, and the shapes move elements that are already there.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);

  const arrange = () => {
    const list = find("prints-list"), order = find("prints-order"), told = find("prints-told");
    if (!list) return;
    order.parentElement.hidden = false;
    order.onchange = () => {
      const place = (item) => Number(item.dataset[order.value]);
      list.append(...[...list.children].sort((a, b) => place(a) - place(b)));
      list.classList.toggle("kin", order.value === "likeness");
    };
    const tell = (event) => {
      const glyph = event.target.closest(".prints > li");
      const title = glyph && glyph.querySelector("title");
      if (title) told.textContent = title.textContent;
    };
    list.onpointerover = tell;
    list.addEventListener("focusin", tell);
    told.textContent = "";
  };

  // "1.28 M" is 1280000, "20 610" is 20610, "−0.42" is -0.42; what is no number comes last.
  const amount = (cell) => {
    const found = /^([-+]?[\d.]+(?:e[-+]?\d+)?)\s*([kMG]?)/.exec(cell.textContent.trim().replace(/\u202f/g, "").replace(/\u2212/g, "-"));
    return found ? Number(found[1]) * { "": 1, k: 1e3, M: 1e6, G: 1e9 }[found[2]] : NaN;
  };

  // By a column's numbers, the largest first and then the smallest; by the first column: as the rows were.
  const sort = (table, column, direction) => {
    const body = table.tBodies[0], sign = direction === "descending" ? -1 : 1;
    const key = (row) => column ? amount(row.cells[column]) : Number(row.dataset.place);
    const last = (a, b) => Number.isNaN(a) - Number.isNaN(b);
    const rows = [...body.rows].map((row) => [key(row), Number(row.dataset.place), row]);
    rows.sort(([a, i], [b, j]) => last(a, b) || (Number.isNaN(a) ? 0 : sign * (a - b)) || i - j);
    body.append(...rows.map(([, , row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", direction); else head.removeAttribute("aria-sort");
    });
    table.dataset.sorted = `${column} ${direction}`;
  };

  const sortable = () => document.querySelectorAll("table.sortable").forEach((table) => {
    [...table.tBodies[0].rows].forEach((row, i) => { row.dataset.place = i; });
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (column && head.classList.contains("text")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.onclick = () => {
        const first = column ? "descending" : "ascending", now = head.getAttribute("aria-sort");
        sort(table, column, now === first ? (column ? "ascending" : "descending") : first);
      };
      head.replaceChildren(button);
    });
  });

  const slide = () => {
    const input = find("level"), line = find("level-line"), data = find("level-shapes");
    if (!input) return;
    const levels = JSON.parse(data.textContent), lines = JSON.parse(line.dataset.lines);
    const picture = find("level-ribbon");
    const layers = [...picture.querySelectorAll(".thing")].filter((one) => one.querySelector(".outline"));
    const cores = [...picture.querySelectorAll(".core")];
    const rows = [...find("levels").tBodies[0].rows];
    const move = (shape, y, height) => {
      shape.setAttribute("y", y);
      shape.setAttribute("height", height);
      shape.style.y = y + "px";
      shape.style.height = height + "px";
    };
    const show = () => {
      const level = Number(input.value), shapes = levels[level];
      layers.forEach((layer, i) => {
        const [y, height, role, text, bars] = shapes.layers[i];
        const body = layer.querySelector(".body"), hatch = layer.querySelector(".hatch"), width = layer.querySelector(".width");
        move(body, y, height);
        body.setAttribute("class", role);
        if (hatch) move(hatch, y, height);
        if (width && text) width.textContent = text;
        layer.querySelectorAll(".bar-kept").forEach((bar, k) => move(bar, bars[2 * k], bars[2 * k + 1]));
      });
      cores.forEach((core, i) => core.setAttribute("d", shapes.cores[i]));
      rows.forEach((row, i) => row.classList.toggle("now", i === level));
      line.textContent = lines[level];
      input.setAttribute("aria-valuetext", lines[level]);
    };
    find("slider").hidden = false;
    input.oninput = show;
    show();
  };

  const start = () => { arrange(); sortable(); slide(); };

  const follow = async () => {
    const news = find("news");
    let seen = null;
    for (;;) {
      try {
        const version = await (await fetch("version", { cache: "no-store" })).text();
        if (seen !== null && version !== seen) await renew();
        seen = version;
        news.textContent = "live";
      } catch {
        news.textContent = "the run's server does not answer; this is the last state";
      }
      await new Promise((done) => setTimeout(done, 1000));
    }
  };

  // Elements by their section and their place in it: sections come and go.
  const placed = (kind) => new Map([...document.querySelectorAll("section")].flatMap((section) =>
    [...section.querySelectorAll(kind)].map((one, i) => [`${section.id} ${i}`, one])));

  // The new content takes the old one's place; what the reader opened, scrolled, chose and stood on stays as it was.
  const renew = async () => {
    const fresh = new DOMParser().parseFromString(await (await fetch(".", { cache: "no-store" })).text(), "text/html");
    const stops = "a, button, summary, select, input, [tabindex]";
    const open = new Map([...placed("details")].map(([place, one]) => [place, one.open]));
    const left = new Map([...placed(".wide")].map(([place, one]) => [place, one.scrollLeft]));
    const sorted = new Map([...placed("table.sortable")].map(([place, one]) => [place, one.dataset.sorted]));
    const stood = [...placed(stops)].find(([, one]) => one === document.activeElement);
    const order = find("prints-order")?.value, level = find("level")?.value;
    find("main").replaceWith(fresh.getElementById("main"));
    document.querySelector("nav").replaceWith(fresh.querySelector("nav"));
    placed("details").forEach((one, place) => { if (open.has(place)) one.open = open.get(place); });
    placed(".wide").forEach((one, place) => { one.scrollLeft = left.get(place) ?? 0; });
    if (order && find("prints-order")) find("prints-order").value = order;
    if (level && find("level")) find("level").value = level;
    start();
    if (order && find("prints-order")) find("prints-order").dispatchEvent(new Event("change"));
    placed("table.sortable").forEach((one, place) => {
      const [column, direction] = (sorted.get(place) ?? "").split(" ");
      if (direction && column < one.tHead.rows[0].cells.length) sort(one, Number(column), direction);
    });
    if (stood) placed(stops).get(stood[0])?.focus({ preventScroll: true });
  };

  start();
  if ("live" in document.body.dataset) follow();
})();
