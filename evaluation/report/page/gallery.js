// Gallery: one place on the screen, in which the original and every codec's picture take turns.
"use strict";

const Gallery = (() => {
  const images = JSON.parse(document.getElementById("gallery-data").textContent);
  const state = { image: 0, view: 0, layer: "picture", zoom: "fit", compare: "flip", split: 50 };
  const byId = (id) => document.getElementById(id);
  const signed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const button = (text, pressed, act) => {
    const node = document.createElement("button");
    node.type = "button";
    node.textContent = text;
    node.setAttribute("aria-pressed", pressed);
    node.addEventListener("click", act);
    return node;
  };

  function layersOf(image) {
    return [...new Set(image.views.flatMap((view) => Object.keys(view.layers)))];
  }

  function source(view, name) {
    return (view.layers[name] ?? view.layers.picture).src ?? view.layers.picture.src;
  }

  function buttons() {
    const image = images[state.image];
    byId("gallery-views").replaceChildren(...image.views.map((view, i) => {
      const node = button(view.codec, i === state.view, () => set({ view: i }));
      if (view.bpp !== null) {
        const detail = document.createElement("small");
        detail.textContent = `${view.bpp.toFixed(3)} bpp · ${signed(view.psnr, 2)} dB`;
        node.append(detail);
      } else {
        const detail = document.createElement("small");
        detail.textContent = "24 bpp";
        node.append(detail);
      }
      return node;
    }));
    const layers = layersOf(image);
    byId("gallery-layers").replaceChildren(...layers.map((name) => button(name, name === state.layer, () => set({ layer: name }))));
    byId("gallery-layers").parentElement.hidden = layers.length < 2;
    for (const node of document.querySelectorAll("[data-zoom]")) node.setAttribute("aria-pressed", node.dataset.zoom === state.zoom);
    for (const node of document.querySelectorAll("[data-compare]")) node.setAttribute("aria-pressed", node.dataset.compare === state.compare);
    [...byId("gallery-images").children].forEach((node, i) => node.setAttribute("aria-pressed", i === state.image));
  }

  function caption(view, layer) {
    if (view.bpp === null) return view.layers.picture.caption;
    const rate = view.rate === null ? "" : ` (rate ${view.rate})`;
    const own = layer && layer.caption ? ` — ${layer.caption}` : "";
    const lacks = layer ? "" : ` — has no “${state.layer}”; this is its picture`;
    return `${view.codec}${rate}: ${view.bpp.toFixed(4)} bits per pixel, PSNR ${signed(view.psnr, 2)} dB${own}${lacks}`;
  }

  function stage() {
    const image = images[state.image], view = image.views[state.view], layer = view.layers[state.layer];
    const frame = byId("gallery-frame"), over = byId("gallery-over");
    const isPicture = state.layer === "picture" || !layer;
    const compare = view.bpp === null || !isPicture ? "flip" : state.compare;
    byId("gallery-picture").src = source(view, state.layer);
    byId("gallery-picture").alt = `${image.name}, ${view.codec}, ${state.layer}`;
    over.src = image.views[0].layers.picture.src;
    frame.style.aspectRatio = `${image.width} / ${image.height}`;
    frame.style.width = state.zoom === "fit" ? "100%" : `${image.width * Number(state.zoom)}px`;
    frame.style.maxWidth = state.zoom === "fit" ? `min(100%, ${Math.max(image.width, 640)}px)` : "none";
    frame.dataset.compare = compare;
    frame.classList.toggle("pixels", state.zoom !== "fit" ? Number(state.zoom) >= 2 : image.width < 640);
    frame.style.setProperty("--split", `${state.split}%`);
    byId("gallery-split").hidden = compare !== "split";
    byId("gallery-caption").textContent = compare === "difference"
      ? `${view.codec}: difference from the original, four times amplified; black is equal` : caption(view, layer);
    const scale = byId("gallery-scale");
    scale.style.visibility = layer && layer.top !== null ? "visible" : "hidden";
    byId("gallery-top").textContent = layer && layer.top !== null ? `${layer.top.toPrecision(3)} bits per pixel and more` : "";
    byId("gallery-name").textContent = `${image.name} · ${image.width} × ${image.height}`;
  }

  function set(change) {
    const stageBox = byId("gallery-stage"), before = state.zoom;
    const centre = [(stageBox.scrollLeft + stageBox.clientWidth / 2) / stageBox.scrollWidth, (stageBox.scrollTop + stageBox.clientHeight / 2) / stageBox.scrollHeight];
    Object.assign(state, change);
    const image = images[state.image];
    state.view = Math.min(Math.max(state.view, 0), image.views.length - 1);
    if (!layersOf(image).includes(state.layer)) state.layer = "picture";
    buttons();
    stage();
    if (state.zoom !== before) {
      stageBox.scrollLeft = centre[0] * stageBox.scrollWidth - stageBox.clientWidth / 2;
      stageBox.scrollTop = centre[1] * stageBox.scrollHeight - stageBox.clientHeight / 2;
    }
  }

  const step = (by) => {
    const count = images[state.image].views.length;
    set({ view: (state.view + by + count) % count });
  };

  const hold = (on) => byId("gallery-frame").classList.toggle("original", on);

  function inSight() {
    const box = byId("gallery").getBoundingClientRect();
    return box.top < innerHeight * 0.6 && box.bottom > innerHeight * 0.4;
  }

  function keys() {
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, summary") || !inSight()) return;
      if (event.key === "ArrowRight") step(1);
      else if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "o") hold(true);
      else return;
      event.preventDefault();
    });
    addEventListener("keyup", (event) => { if (event.key === "o") hold(false); });
    addEventListener("blur", () => hold(false));
  }

  function pointer() {
    const frame = byId("gallery-frame");
    const moveSplit = (event) => {
      const box = frame.getBoundingClientRect();
      set({ split: Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)) });
    };
    frame.addEventListener("pointerdown", (event) => {
      if (frame.dataset.compare === "split") moveSplit(event);
      else hold(true);
    });
    frame.addEventListener("pointermove", (event) => {
      if (frame.dataset.compare === "split" && (event.pointerType === "mouse" || event.buttons)) moveSplit(event);
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) frame.addEventListener(name, () => hold(false));
  }

  function fromNames(wanted) {
    const change = {};
    if (wanted.has("image")) {
      const named = images.findIndex((image) => image.name === wanted.get("image"));
      change.image = named >= 0 ? named : Math.min(images.length, Math.max(1, Number(wanted.get("image")) || 1)) - 1;
    }
    const image = images[change.image ?? state.image];
    if (wanted.has("view")) change.view = Math.max(0, image.views.findIndex((view) => view.codec === wanted.get("view")));
    for (const key of ["layer", "zoom", "compare"]) if (wanted.has(key)) change[key] = wanted.get(key);
    if (Object.keys(change).length) set(change);
  }

  function start() {
    if (!images.length) return;
    byId("gallery-images").replaceChildren(...images.map((image, i) => {
      const node = button("", i === 0, () => set({ image: i }));
      const picture = document.createElement("img");
      picture.src = image.views[0].layers.picture.src;
      picture.alt = "";
      const name = document.createElement("small");
      name.textContent = image.name;
      node.append(picture, name);
      return node;
    }));
    byId("gallery-before").addEventListener("click", () => step(-1));
    byId("gallery-next").addEventListener("click", () => step(1));
    for (const node of document.querySelectorAll("[data-zoom]")) node.addEventListener("click", () => set({ zoom: node.dataset.zoom }));
    for (const node of document.querySelectorAll("[data-compare]")) node.addEventListener("click", () => set({ compare: node.dataset.compare }));
    keys();
    pointer();
    set({ view: images[0].views.length > 1 ? 1 : 0 });
  }

  return { start, set, fromNames, state };
})();
