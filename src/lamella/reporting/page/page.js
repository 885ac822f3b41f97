// What the page can do beyond being read: sort fingerprints, tell their numbers, slide through levels, follow a live run.
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

  const start = () => { arrange(); slide(); };

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

  // The new content takes the old one's place; what the reader opened and chose stays as it was.
  const renew = async () => {
    const fresh = new DOMParser().parseFromString(await (await fetch(".", { cache: "no-store" })).text(), "text/html");
    const open = [...document.querySelectorAll("details")].map((one) => one.open);
    const sort = find("prints-order")?.value, level = find("level")?.value;
    find("main").replaceWith(fresh.getElementById("main"));
    document.querySelector("nav").replaceWith(fresh.querySelector("nav"));
    document.querySelectorAll("details").forEach((one, i) => { if (i in open) one.open = open[i]; });
    if (sort && find("prints-order")) find("prints-order").value = sort;
    if (level && find("level")) find("level").value = level;
    start();
    if (sort && find("prints-order")) find("prints-order").dispatchEvent(new Event("change"));
  };

  start();
  if ("live" in document.body.dataset) follow();
})();
