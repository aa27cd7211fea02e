// The interactive scene of otreg's pages: turn, zoom, switch layers, scrub the deformation, pick points.
"use strict";
(() => {
  const KINDS = { f4: Float32Array, u2: Uint16Array, u4: Uint32Array };
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = a => { const length = Math.hypot(...a) || 1; return a.map(x => x / length); };
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function number(value, digits = 4) {
    if (!Number.isFinite(value)) return "not known";
    const size = Math.abs(value);
    return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(digits - 2) : String(+value.toPrecision(digits));
  }

  async function unpacked(text) {
    const packed = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // An array out of the unpacked block, where the first bytes of all its numbers come first, then the second ones.
  function decoded(data, item) {
    if (!item) return null;
    const Kind = KINDS[item.type], width = Kind.BYTES_PER_ELEMENT, bytes = new Uint8Array(item.count * width);
    for (let byte = 0; byte < width; byte++)
      for (let k = 0, from = item.at + byte * item.count; k < item.count; k++) bytes[k * width + byte] = data.block[from + k];
    return new Kind(bytes.buffer);
  }

  // Bytes (N, 3) of values, as otreg's Colouring has them.
  function coloursOf(values, colouring) {
    const found = new Uint8Array(3 * values.length), table = colouring.colours, last = table.length - 1;
    const rows = new Map((colouring.codes || []).map((code, row) => [code, row]));
    for (let k = 0; k < values.length; k++) {
      let colour = colouring.unknown;
      if (colouring.kind === "categorical") {
        if (rows.has(values[k])) colour = table[rows.get(values[k])];
      } else if (Number.isFinite(values[k])) {
        const [low, high] = colouring.limits;
        const place = clamp((values[k] - low) / Math.max(high - low, 1e-300), 0, 1) * last;
        const before = Math.min(Math.floor(place), last), after = Math.min(before + 1, last), share = place - before;
        colour = [0, 1, 2].map(c => Math.round((1 - share) * table[before][c] + share * table[after][c]));
      }
      found.set(colour, 3 * k);
    }
    return found;
  }

  // Arrows as a mesh: a thin six-sided shaft and a cone each, ROUND vertices a ring.
  const ROUND = 8, RINGS = 4;
  function arrowMesh(tails, vectors, radius) {
    const count = tails.length / 3, points = new Float32Array(3 * count * ROUND * RINGS), cells = [];
    for (let k = 0; k < count; k++) {
      const tail = [...tails.subarray(3 * k, 3 * k + 3)], vector = [...vectors.subarray(3 * k, 3 * k + 3)];
      const length = Math.hypot(...vector), along = unit(vector);
      const side = unit(cross(along, Math.abs(along[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0])), other = cross(along, side);
      const wide = Math.min(0.008 * radius, 0.06 * length), head = Math.min(0.3 * length, 8 * wide);
      const rings = [[0, wide], [length - head, wide], [length - head, 3 * wide], [length, 0]];
      rings.forEach(([far, size], ring) => {
        for (let step = 0; step < ROUND; step++) {
          const angle = (2 * Math.PI * step) / ROUND, c = size * Math.cos(angle), s = size * Math.sin(angle);
          const row = (k * RINGS + ring) * ROUND + step;
          for (let axis = 0; axis < 3; axis++)
            points[3 * row + axis] = tail[axis] + far * along[axis] + c * side[axis] + s * other[axis];
          if (ring) {
            const next = (k * RINGS + ring) * ROUND + ((step + 1) % ROUND);
            cells.push(row - ROUND, next - ROUND, next, row - ROUND, next, row);
          }
        }
      });
    }
    return { points, cells: new Uint32Array(cells) };
  }

  class Layer {
    constructor(data, given, radius) {
      Object.assign(this, given);
      this.shown = given.kind;
      this.still = decoded(data, given.points);
      this.cells = decoded(data, given.cells);
      this.values = decoded(data, given.values);
      this.rows = decoded(data, given.rows);
      this.quanta = decoded(data, given.motion);
      if (this.quanta) {  // stored as what is added from one time to the next
        const size = this.quanta.length / given.motion.times;
        for (let k = size; k < this.quanta.length; k++) this.quanta[k] += this.quanta[k - size];
      }
      if (given.kind === "arrows") {
        this.kind = "surface";
        this.vectors = decoded(data, given.vectors) || new Float32Array(this.still.length);
        this.perItem = ROUND * RINGS;
        Object.assign(this, { tails: this.still, ...arrowMesh(this.still, this.vectors, radius) });
        this.still = this.points;
      }
      this.points = this.still;
      const count = this.still.length / 3;
      this.spacing = 1.2 * radius / Math.sqrt(Math.max(count, 1));
      this.plain = given.colour.map(part => Math.round(255 * part));
      this.sample = this.used(Math.max(Math.ceil(count / 2000), 1));
    }

    used(step) {  // rows of some of the vertices that can be seen
      if (!this.cells) return Array.from({ length: Math.ceil(this.still.length / 3 / step) }, (_, k) => step * k);
      const all = [...new Set(this.cells)];
      return all.filter((_, k) => k % step === 0);
    }

    recolour(colouring, dark) {
      const repeat = this.perItem || 1, count = this.still.length / 3;
      if (this.values && colouring) {
        const each = coloursOf(this.values, colouring);
        this.colours = new Uint8Array(3 * count);
        for (let k = 0; k < count; k++) this.colours.set(each.subarray(3 * Math.floor(k / repeat), 3 * Math.floor(k / repeat) + 3), 3 * k);
        return;
      }
      // Ink is for paper: on a dark page it is light.
      const ink = Math.max(...this.plain) < 110 && (this.kind === "lines" || this.shown === "arrows" || this.ghost || this.outline);
      this.colours = new Uint8Array(3 * count);
      for (let k = 0; k < count; k++) this.colours.set(dark && ink ? this.plain.map(part => 235 - part) : this.plain, 3 * k);
    }

    at(time) {
      if (!this.quanta) return false;
      if (time >= 1) { this.points = this.still; return true; }
      const { times, low, step } = this.motion, size = this.quanta.length / times;
      const place = time * (times - 1), before = Math.min(Math.floor(place), times - 2), share = place - before;
      const a = this.quanta.subarray(before * size, (before + 1) * size), b = this.quanta.subarray((before + 1) * size, (before + 2) * size);
      const moved = new Float32Array(size);
      for (let k = 0; k < size; k++) moved[k] = low[k % 3] + step[k % 3] * ((1 - share) * a[k] + share * b[k]);
      this.points = moved;
      return true;
    }
  }

  class Viewer {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      const all = this.data.layers.map(layer => decoded(this.data, layer.points));
      let radius = 0;
      for (const points of all) for (let k = 0; k < points.length; k++) radius = Math.max(radius, Math.abs(points[k]));
      this.radius = radius || 1;
      this.layers = this.data.layers.map(layer => new Layer(this.data, layer, this.radius));
      this.camera = { axes: this.data.first, centre: [0, 0, 0], half: this.radius, depth: 1, back: 0.004 * this.radius };
      this.time = 1;
      this.follow = true;
      this.picked = null;
      this.theme = matchMedia("(prefers-color-scheme: dark)");
      otregPanel.build(this, element, number);
      this.glass = otregGL.open(this.canvas);
      if (!this.glass) throw new Error("no WebGL2");
      this.recolour();
      for (const layer of this.layers) layer.drawing = this.glass.make(layer);
      this.theme.addEventListener("change", () => { this.recolour(true); this.ask(); });
      new ResizeObserver(() => { if (this.follow) this.fit(); this.ask(); }).observe(this.canvas);
      this.listen();
      this.fit();
      this.obey(location.hash);
      this.draw();
      this.root.dataset.ready = "yes";
    }

    get dark() {
      const own = this.data.background;
      return own ? 0.3 * own[0] + 0.59 * own[1] + 0.11 * own[2] < 0.5 : this.theme.matches;
    }

    recolour(again = false) {
      for (const layer of this.layers) {
        layer.recolour(this.data.colouring, this.dark);
        if (again) layer.drawing.paint();
      }
    }

    obey(hash) {  // such as #time=0.5&view=front&hide=fixed,grid&show=arrows
      const wanted = new URLSearchParams(hash.slice(1));
      const switched = (key, on) => (wanted.get(key) || "").split(",").forEach(name => this.toggle(name, on));
      switched("show", true);
      switched("hide", false);
      if (wanted.has("view")) this.look(wanted.get("view"));
      if (wanted.has("time")) this.setTime(+wanted.get("time"));
      if (wanted.has("zoom")) this.zoom(1 / +wanted.get("zoom"));
    }

    toggle(name, on) {
      for (const layer of this.layers) if (layer.name === name) {
        layer.visible = on;
        layer.box.checked = on;
      }
      this.ask();
    }

    setTime(time) {
      this.time = clamp(Number.isFinite(time) ? time : 1, 0, 1);
      for (const layer of this.layers) if (layer.at(this.time)) layer.drawing.move();
      this.showTime();
      if (this.follow) this.fit();
      this.ask();
    }

    look(name) {
      const axes = name === "first" ? this.data.first : this.data.views[name];
      if (!axes) return;
      this.camera.axes = axes;
      this.follow = true;
      this.fit();
      this.ask();
    }

    fit() {  // all that is visible now, in the middle and as large as it can be
      const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
      const shown = this.layers.filter(layer => layer.visible);
      for (const layer of shown.length ? shown : this.layers) for (const row of layer.sample) {
        const point = layer.points.subarray(3 * row, 3 * row + 3);
        for (let axis = 0; axis < 3; axis++) {
          const far = dot(this.camera.axes[axis], point);
          low[axis] = Math.min(low[axis], far);
          high[axis] = Math.max(high[axis], far);
        }
      }
      if (!Number.isFinite(low[0])) return;
      const middle = [0, 1, 2].map(axis => (low[axis] + high[axis]) / 2), { axes } = this.camera;
      this.camera.centre = [0, 1, 2].map(k => middle[0] * axes[0][k] + middle[1] * axes[1][k] + middle[2] * axes[2][k]);
      const wide = this.canvas.clientWidth / Math.max(this.canvas.clientHeight, 1) || 1;
      this.camera.half = 1.1 * Math.max((high[1] - low[1]) / 2, (high[0] - low[0]) / 2 / wide, 1e-6 * this.radius);
    }

    turn(right, up) {  // by angles around the picture's own axes
      let [x, y, z] = this.camera.axes;
      const mix = (a, b, angle) => [0, 1, 2].map(k => a[k] * Math.cos(angle) + b[k] * Math.sin(angle));
      [x, z] = [mix(x, z, right), mix(z, x, -right)];
      [y, z] = [mix(y, z, up), mix(z, y, -up)];
      z = unit(z);
      x = unit(cross(y, z));
      this.camera.axes = [x, cross(z, x), z];
      this.ask();
    }

    zoom(factor, at = null) {  // at: what stays where it is, in halves of the picture's height from its middle
      this.follow = false;
      const before = this.camera.half;
      this.camera.half = clamp(before * factor, 1e-4 * this.radius, 50 * this.radius);
      if (at) this.pan(at[0] * (before - this.camera.half), at[1] * (before - this.camera.half));
      this.ask();
    }

    pan(right, up) {
      this.follow = false;
      const [x, y] = this.camera.axes;
      this.camera.centre = this.camera.centre.map((c, k) => c + right * x[k] + up * y[k]);
      this.ask();
    }

    seen(point) {  // pixels from the canvas' top left corner, and how near (the larger the nearer)
      const { axes, centre, half } = this.camera, q = point.map((p, k) => p - centre[k]);
      const pixel = this.canvas.clientHeight / 2 / half;
      return [this.canvas.clientWidth / 2 + dot(axes[0], q) * pixel, this.canvas.clientHeight / 2 - dot(axes[1], q) * pixel, dot(axes[2], q)];
    }

    place(name, row) {  // for tests: where a vertex of a layer is seen
      const layer = this.layers.find(one => one.name === name);
      return this.seen([...layer.points.subarray(3 * row, 3 * row + 3)]);
    }

    pick(x, y) {
      let best = null;
      const offer = (layer, row, near) => { if (!best || near > best.near) best = { layer, row, near }; };
      for (const layer of this.layers) {
        if (!layer.visible || layer.opacity === 0 || layer.ghost || layer.outline || layer.kind === "lines") continue;
        const count = layer.points.length / 3, px = new Float64Array(count), py = new Float64Array(count), pz = new Float64Array(count);
        for (let k = 0; k < count; k++) [px[k], py[k], pz[k]] = this.seen([layer.points[3 * k], layer.points[3 * k + 1], layer.points[3 * k + 2]]);
        if (layer.kind === "points") {
          for (let k = 0; k < count; k++) if (Math.hypot(px[k] - x, py[k] - y) < 8) offer(layer, k, pz[k]);
          continue;
        }
        for (let k = 0; k < layer.cells.length; k += 3) {
          const [a, b, c] = layer.cells.subarray(k, k + 3);
          const whole = (px[b] - px[a]) * (py[c] - py[a]) - (py[b] - py[a]) * (px[c] - px[a]);
          if (!whole) continue;
          const v = ((x - px[a]) * (py[c] - py[a]) - (y - py[a]) * (px[c] - px[a])) / whole;
          const w = ((px[b] - px[a]) * (y - py[a]) - (py[b] - py[a]) * (x - px[a])) / whole;
          if (v < 0 || w < 0 || v + w > 1) continue;
          const row = v > w ? (v > 1 - v - w ? b : a) : (w > 1 - v - w ? c : a);
          offer(layer, row, pz[a] + v * (pz[b] - pz[a]) + w * (pz[c] - pz[a]));
        }
      }
      this.picked = best;
      this.ask();
      return best;
    }

    listen() {
      const canvas = this.canvas, held = new Map();
      let moved = 0, spread = 0;
      const middle = () => [...held.values()].reduce((sum, p) => [sum[0] + p[0] / held.size, sum[1] + p[1] / held.size], [0, 0]);
      const apart = () => { const [a, b] = [...held.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
      const at = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
      canvas.addEventListener("pointerdown", event => {
        canvas.setPointerCapture(event.pointerId);
        held.set(event.pointerId, at(event));
        moved = held.size > 1 ? 99 : 0;
        if (held.size === 2) spread = apart();
      });
      canvas.addEventListener("pointermove", event => {
        if (!held.has(event.pointerId)) return;
        const before = middle();
        held.set(event.pointerId, at(event));
        const now = middle(), dx = now[0] - before[0], dy = now[1] - before[1];
        moved += Math.abs(dx) + Math.abs(dy);
        const size = (2 * this.camera.half) / canvas.clientHeight;
        if (held.size > 1 || event.shiftKey || event.buttons & 6) this.pan(-dx * size, dy * size);
        else this.turn(-dx * 0.008, dy * 0.008);
        if (held.size === 2) { const now = apart(); if (now > 0 && spread > 0) this.zoom(spread / now); spread = now; }
      });
      const release = event => {
        if (held.delete(event.pointerId) && moved < 4 && event.type === "pointerup" && event.button === 0) this.pick(...at(event));
      };
      canvas.addEventListener("pointerup", release);
      canvas.addEventListener("pointercancel", release);
      canvas.addEventListener("contextmenu", event => event.preventDefault());
      canvas.addEventListener("dblclick", () => this.look("first"));
      canvas.addEventListener("wheel", event => {
        // In a long page the wheel scrolls until the scene has been clicked.
        if (document.activeElement !== canvas && !event.ctrlKey && this.root.dataset.whole !== "yes") return;
        event.preventDefault();
        const [x, y] = at(event), high = canvas.clientHeight;
        this.zoom(Math.exp(clamp(event.deltaY, -200, 200) * 0.0015), [(2 * x - canvas.clientWidth) / high, (high - 2 * y) / high]);
      }, { passive: false });
      canvas.addEventListener("keydown", event => {
        const turns = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
        if (turns) this.turn(...turns);
        else if (event.key === "+" || event.key === "=") this.zoom(0.9);
        else if (event.key === "-") this.zoom(1 / 0.9);
        else return;
        event.preventDefault();
      });
    }

    ask() {
      if (this.waiting || !this.glass) return;
      this.waiting = true;
      requestAnimationFrame(() => { this.waiting = false; this.draw(); });
    }

    draw() {
      const canvas = this.canvas, ratio = Math.min(devicePixelRatio || 1, 2);
      const width = Math.max(Math.round(canvas.clientWidth * ratio), 1), height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      let depth = 0;
      for (const layer of this.layers) for (const row of layer.sample)
        depth = Math.max(depth, Math.abs(dot(this.camera.axes[2], [0, 1, 2].map(k => layer.points[3 * row + k] - this.camera.centre[k]))));
      this.camera.depth = 1.1 * depth + 0.05 * this.radius;
      this.glass.begin();
      const rank = layer => (layer.outline ? 3 : layer.ghost ? 2 : layer.opacity < 1 ? 1 : 0);
      for (const layer of this.layers.filter(one => one.visible && one.opacity > 0).sort((a, b) => rank(a) - rank(b)))
        layer.drawing.draw(this.camera, width, height, ratio);
      this.annotate();
    }
  }

  async function start(root) {
    try {
      const data = JSON.parse(root.querySelector("script").textContent);
      data.block = await unpacked(data.packed);
      delete data.packed;
      root.otreg = new Viewer(root, data);
    } catch (error) {
      console.error(error);
      root.dataset.ready = "none";
      const words = "The 3-D scene cannot be shown: this browser lacks WebGL2 or DecompressionStream, or they are switched off. Browsers since 2023 have both.";
      (root.querySelector(".otreg-stage") || root).append(element("p", { class: "otreg-none", role: "alert" }, words));
    }
  }

  addEventListener("DOMContentLoaded", () => document.querySelectorAll(".otreg-scene").forEach(start));
})();
