// What stands around a scene: switches, the time, views, legend, scale bar, and what was picked.
"use strict";
const otregPanel = (() => {
  const rgb = colour => `rgb(${colour.join(",")})`;

  function legend(colouring, element, number) {
    const title = element("span", { class: "otreg-legend-title" }, colouring.title + (colouring.unit ? ` (${colouring.unit})` : ""));
    if (colouring.kind === "categorical") {
      const rows = colouring.names.map((name, row) =>
        element("li", {}, element("i", { style: `background:${rgb(colouring.colours[row])}` }), name));
      return element("div", { class: "otreg-legend" }, title, element("ul", {}, ...rows));
    }
    const [low, high] = colouring.limits, place = tick => (high > low ? (100 * (tick - low)) / (high - low) : 0);
    const bar = element("div", { class: "otreg-bar", style: `background:linear-gradient(90deg,${colouring.colours.map(rgb).join(",")})` });
    const ticks = colouring.ticks.map(tick =>
      element("span", { style: `left:${place(tick).toFixed(2)}%` }, number(tick)));
    return element("div", { class: "otreg-legend" }, title, bar, element("div", { class: "otreg-ticks" }, ...ticks));
  }

  function row(viewer, layer, element) {
    layer.box = element("input", { type: "checkbox", onchange: () => viewer.toggle(layer.name, layer.box.checked) });
    layer.box.checked = layer.visible;
    const { colouring } = viewer.data;
    const swatch = layer.values && colouring && colouring.kind !== "categorical"
      ? `linear-gradient(90deg,${colouring.colours.filter((_, k) => k % 9 === 0).map(rgb).join(",")})`
      : rgb(layer.plain);
    const label = element("label", {}, layer.box, element("i", { style: `background:${swatch}` }), element("span", {}, layer.name));
    const found = element("li", {}, label);
    if (layer.shown === "surface" || layer.shown === "points") {
      const slider = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: layer.opacity, "aria-label": `Opacity of ${layer.name}`, title: "Opacity",
        oninput: () => { layer.opacity = +slider.value; viewer.ask(); } });
      found.append(slider);
    }
    return found;
  }

  function roundLength(longest) {  // the largest of 1, 2, 5 × 10^k that is not above it
    const power = 10 ** Math.floor(Math.log10(longest));
    return [5, 2, 1].map(step => step * power).find(length => length <= longest * (1 + 1e-9));
  }

  function play(viewer) {
    viewer.playing = !viewer.playing;
    viewer.button.textContent = viewer.playing ? "Pause" : "Play";
    if (!viewer.playing) return;
    const from = viewer.time >= 1 ? 0 : viewer.time;
    let began = null;
    const step = now => {
      if (!viewer.playing) return;
      began ??= now;
      const time = from + (now - began) / 4000;
      viewer.setTime(time);
      if (time < 1) requestAnimationFrame(step);
      else play(viewer);
    };
    requestAnimationFrame(step);
  }

  return {
    build(viewer, element, number) {
      const { data, layers, root } = viewer, unit = data.unit ? ` ${data.unit}` : "";
      const names = layers.map(layer => layer.name).join(", ");
      viewer.canvas = element("canvas", { tabindex: 0, role: "img",
        "aria-label": `Interactive 3-D scene of ${names}. Arrow keys turn it, plus and minus zoom.` });
      viewer.bar = element("div", { class: "otreg-scale", "aria-hidden": "true" }, element("span"));
      viewer.readout = element("div", { class: "otreg-readout", role: "status" });
      viewer.marker = element("div", { class: "otreg-marker", "aria-hidden": "true" });
      viewer.stage = element("div", { class: "otreg-stage" }, viewer.canvas, viewer.bar, viewer.readout, viewer.marker);
      if (data.background) viewer.stage.style.background = rgb(data.background.map(part => Math.round(255 * part)));
      if (viewer.dark) viewer.stage.classList.add("otreg-dark");
      if (data.colouring) viewer.stage.append(legend(data.colouring, element, number));
      const views = ["first", ...Object.keys(data.views)].map(name =>
        element("button", { type: "button", "data-view": name, onclick: () => viewer.look(name) }, name === "first" ? "Fit" : name[0].toUpperCase() + name.slice(1)));
      const controls = element("div", { class: "otreg-controls" });
      viewer.showTime = () => {};
      if (layers.some(layer => layer.motion)) {
        viewer.slider = element("input", { type: "range", min: 0, max: 1, step: 0.005, value: 1, "aria-label": "Time of the deformation, from 0 before to 1 after",
          oninput: () => { if (viewer.playing) play(viewer); viewer.setTime(+viewer.slider.value); } });
        viewer.clock = element("output", {}, "1.00");
        viewer.button = element("button", { type: "button", class: "otreg-play", onclick: () => play(viewer) }, "Play");
        controls.append(element("div", { class: "otreg-time" }, viewer.button, element("span", {}, "before"), viewer.slider, element("span", {}, "after"), viewer.clock));
        viewer.showTime = () => {
          viewer.slider.value = viewer.time;
          viewer.clock.textContent = viewer.time.toFixed(2);
        };
      }
      controls.append(element("div", { class: "otreg-views", role: "group", "aria-label": "Views" }, ...views));
      controls.append(element("ul", { class: "otreg-layers", "aria-label": "Layers" }, ...layers.map(layer => row(viewer, layer, element))));
      root.append(viewer.stage, controls);
      if (data.notes.length) root.append(element("ul", { class: "otreg-notes" }, ...data.notes.map(note => element("li", {}, note))));

      viewer.annotate = () => {
        const pixel = viewer.canvas.clientHeight / 2 / viewer.camera.half;
        const length = roundLength(Math.max(viewer.canvas.clientWidth, 1) / 4 / pixel);
        viewer.bar.style.width = `${length * pixel}px`;
        viewer.bar.firstChild.textContent = `${number(length)}${unit}`;
        const picked = viewer.picked;
        viewer.marker.style.display = picked ? "block" : "none";
        if (!picked) { viewer.readout.textContent = ""; return; }
        const { layer, row: at } = picked, item = layer.perItem ? Math.floor(at / layer.perItem) : at;
        const here = [...layer.points.subarray(3 * at, 3 * at + 3)], [x, y] = viewer.seen(here);
        viewer.marker.style.transform = `translate(${x}px,${y}px)`;
        const place = (layer.perItem ? [...layer.tails.subarray(3 * item, 3 * item + 3)] : here).map((p, k) => p + data.centre[k]);
        const digits = Math.max(5 - Math.ceil(Math.log10(viewer.radius)), 0);
        const lines = [`${layer.name} · ${layer.perItem ? "arrow" : layer.shown === "points" ? "point" : "vertex"} ${layer.rows ? layer.rows[item] : item}`,
          `at ${place.map(p => p.toFixed(Math.min(digits, 6))).join(", ")}${unit}`];
        if (layer.perItem) lines.push(`length ${number(Math.hypot(...layer.vectors.subarray(3 * item, 3 * item + 3)))}${unit}`);
        if (layer.values && data.colouring) {
          const { title, unit: of, kind, codes, names: called } = data.colouring, value = layer.values[item];
          const label = kind === "categorical" ? called[codes.indexOf(value)] ?? "none" : number(value) + (of && Number.isFinite(value) ? ` ${of}` : "");
          lines.push(`${title}: ${label}`);
        }
        viewer.readout.replaceChildren(...lines.map(line => element("div", {}, line)));
      };
    },
  };
})();
