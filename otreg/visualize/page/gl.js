// Drawing with WebGL2: shaders, buffers, and one layer of a scene on the graphics card.
"use strict";
const otregGL = (() => {
  const HEAD = `#version 300 es
precision highp float;
uniform vec3 right, up, towards, centre;   // the camera: its axes and what it looks at
uniform vec2 scale;                        // 1 / half width, 1 / half height of what is seen
uniform float depth;                       // half of the depth that is seen
uniform float back;                        // how much farther things are taken to be than they are
vec3 seen(vec3 p) { vec3 q = p - centre; return vec3(dot(q, right), dot(q, up), dot(q, towards)); }
vec4 place(vec3 v) { return vec4(v.xy * scale, (back - v.z) / depth, 1.0); }
`;
  // A key light from the upper left, a weak fill from the right, one from the eye, as in the pictures.
  const LIGHT = `#version 300 es
precision highp float;
uniform float opacity;
uniform int ghost;
out vec4 pixel;
vec3 lit(vec3 colour, vec3 n) {
  vec3 key = normalize(vec3(-0.7, 0.9, 1.0)), fill = normalize(vec3(1.0, -0.2, 0.7));
  float strength = 0.20 + 0.52 * max(dot(n, key), 0.0) + 0.20 * max(dot(n, fill), 0.0) + 0.33 * max(n.z, 0.0);
  float shine = 0.10 * pow(max(dot(n, normalize(key + vec3(0.0, 0.0, 1.0))), 0.0), 24.0);
  return colour * strength + shine;
}
`;
  const SOURCES = {
    surface: [HEAD + `
in vec3 position, normal, colour;
out vec3 direction, paint;
void main() {
  direction = vec3(dot(normal, right), dot(normal, up), dot(normal, towards));
  paint = colour;
  gl_Position = place(seen(position));
}`, LIGHT + `
in vec3 direction, paint;
void main() {
  vec3 n = length(direction) > 0.0 ? normalize(direction) : vec3(0.0, 0.0, 1.0);
  if (!gl_FrontFacing) n = -n;
  if (ghost == 1) {
    float rim = 1.0 - clamp(abs(n.z), 0.0, 1.0);
    pixel = vec4(paint, opacity * (0.05 + 0.8 * rim * rim));
  } else pixel = vec4(lit(paint, n), opacity);
}`],
    points: [HEAD + `
in vec3 position, colour;
uniform float size;
out vec3 paint;
void main() { paint = colour; gl_Position = place(seen(position)); gl_PointSize = size; }`, LIGHT + `
in vec3 paint;
void main() {
  vec2 q = 2.0 * gl_PointCoord - 1.0;
  float d = dot(q, q);
  if (d > 1.0) discard;
  pixel = vec4(lit(paint, vec3(q.x, -q.y, sqrt(1.0 - d))), opacity);
}`],
    lines: [HEAD + `
in vec3 position, end, colour, colourEnd;
in vec2 corner;
uniform vec2 halfWidth;                    // of a line, as a share of the picture
out vec3 paint;
void main() {
  vec4 a = place(seen(position)), b = place(seen(end));
  vec2 along = (b.xy - a.xy) / halfWidth;
  vec2 n = length(along) > 0.0 ? normalize(along) : vec2(1.0, 0.0);
  vec4 p = corner.x < 0.5 ? a : b;
  p.xy += halfWidth * (vec2(-n.y, n.x) * corner.y + n * (corner.x - 0.5));
  paint = corner.x < 0.5 ? colour : colourEnd;
  gl_Position = p;
}`, LIGHT + `
in vec3 paint;
void main() { pixel = vec4(paint, opacity); }`],
  };

  function program(gl, [vertex, fragment]) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
    const uniforms = {};
    for (let k = 0; k < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); k++) {
      const name = gl.getActiveUniform(made, k).name;
      uniforms[name] = gl.getUniformLocation(made, name);
    }
    return { made, uniforms };
  }

  // Vertex normals (N, 3): the mean of the triangles' normals, weighted by their areas.
  function normals(points, cells) {
    const found = new Float32Array(points.length);
    for (let k = 0; k < cells.length; k += 3) {
      const a = 3 * cells[k], b = 3 * cells[k + 1], c = 3 * cells[k + 2];
      const x = points[b] - points[a], y = points[b + 1] - points[a + 1], z = points[b + 2] - points[a + 2];
      const u = points[c] - points[a], v = points[c + 1] - points[a + 1], w = points[c + 2] - points[a + 2];
      const nx = y * w - z * v, ny = z * u - x * w, nz = x * v - y * u;
      for (const i of [a, b, c]) { found[i] += nx; found[i + 1] += ny; found[i + 2] += nz; }
    }
    for (let i = 0; i < found.length; i += 3) {
      const length = Math.hypot(found[i], found[i + 1], found[i + 2]) || 1;
      found[i] /= length; found[i + 1] /= length; found[i + 2] /= length;
    }
    return found;
  }

  // One layer on the card. `layer`: kind, points, cells (index pairs or triples), colours (N, 3) bytes.
  class Drawing {
    constructor(gl, programs, layer) {
      Object.assign(this, { gl, layer, program: programs[layer.kind] });
      this.array = gl.createVertexArray();
      this.buffers = {};
      gl.bindVertexArray(this.array);
      if (layer.kind === "surface") {
        gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, layer.cells, gl.STATIC_DRAW);
        this.type = layer.cells instanceof Uint16Array ? gl.UNSIGNED_SHORT : gl.UNSIGNED_INT;
      }
      if (layer.kind === "lines") this.fill("corner", new Float32Array([0, -1, 0, 1, 1, -1, 1, 1]), 2, gl.FLOAT, 0);
      this.paint();
      this.move();
    }

    fill(name, data, width, type, perInstance = this.layer.kind === "lines" ? 1 : 0, offset = 0, stride = 0, own = name) {
      const gl = this.gl, where = gl.getAttribLocation(this.program.made, name);
      if (where < 0) return;
      if (data) {
        this.buffers[own] ||= gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[own]);
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
      } else gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[own]);
      gl.enableVertexAttribArray(where);
      gl.vertexAttribPointer(where, width, type, type === gl.UNSIGNED_BYTE, stride, offset);
      gl.vertexAttribDivisor(where, perInstance);
    }

    ends(values, Kind) {  // of both ends of each line, one after the other
      const { cells } = this.layer, found = new Kind(3 * cells.length);
      for (let k = 0; k < cells.length; k++)
        for (let axis = 0; axis < 3; axis++) found[3 * k + axis] = values[3 * cells[k] + axis];
      return found;
    }

    move() {
      const gl = this.gl, { kind, points, cells } = this.layer;
      gl.bindVertexArray(this.array);
      if (kind === "lines") {
        this.fill("position", this.ends(points, Float32Array), 3, gl.FLOAT, 1, 0, 24);
        this.fill("end", null, 3, gl.FLOAT, 1, 12, 24, "position");
      } else {
        this.fill("position", points, 3, gl.FLOAT);
        if (kind === "surface") this.fill("normal", normals(points, cells), 3, gl.FLOAT);
      }
    }

    paint() {
      const gl = this.gl, { kind, colours } = this.layer;
      gl.bindVertexArray(this.array);
      if (kind === "lines") {
        this.fill("colour", this.ends(colours, Uint8Array), 3, gl.UNSIGNED_BYTE, 1, 0, 6);
        this.fill("colourEnd", null, 3, gl.UNSIGNED_BYTE, 1, 3, 6, "colour");
      } else this.fill("colour", colours, 3, gl.UNSIGNED_BYTE);
    }

    draw(camera, width, height, ratio) {
      const gl = this.gl, layer = this.layer, { made, uniforms } = this.program;
      gl.useProgram(made);
      gl.bindVertexArray(this.array);
      gl.uniform3fv(uniforms.right, camera.axes[0]);
      gl.uniform3fv(uniforms.up, camera.axes[1]);
      gl.uniform3fv(uniforms.towards, camera.axes[2]);
      gl.uniform3fv(uniforms.centre, camera.centre);
      gl.uniform2f(uniforms.scale, height / width / camera.half, 1 / camera.half);
      gl.uniform1f(uniforms.depth, camera.depth);
      gl.uniform1f(uniforms.opacity, layer.opacity * (layer.ghost && layer.kind === "points" ? 0.4 : 1));
      gl.uniform1i(uniforms.ghost, layer.ghost || layer.outline ? 1 : 0);
      const clear = layer.opacity < 1 || layer.ghost || layer.outline;
      // Where a clear surface and a solid one all but coincide, the solid one is to be seen whole.
      gl.uniform1f(uniforms.back, clear && layer.kind === "surface" ? camera.back : 0);
      gl.depthMask(!clear);
      (layer.outline ? gl.disable : gl.enable).call(gl, gl.DEPTH_TEST);
      if (layer.kind === "points") {
        gl.uniform1f(uniforms.size, ratio * Math.min(Math.max(layer.spacing * height / ratio / camera.half / 2, 3), 24));
        gl.drawArrays(gl.POINTS, 0, layer.points.length / 3);
      } else if (layer.kind === "lines") {
        const wide = Math.max(layer.width * ratio, 1);
        gl.uniform2f(uniforms.halfWidth, wide / width, wide / height);
        gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, layer.cells.length / 2);
      } else if (clear) {  // the far side first
        gl.enable(gl.CULL_FACE);
        for (const side of [gl.FRONT, gl.BACK]) {
          gl.cullFace(side);
          gl.drawElements(gl.TRIANGLES, layer.cells.length, this.type, 0);
        }
        gl.disable(gl.CULL_FACE);
      } else gl.drawElements(gl.TRIANGLES, layer.cells.length, this.type, 0);
      gl.depthMask(true);
    }
  }

  return {
    // The context with its programs, or null where the browser has no WebGL2.
    open(canvas) {
      const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
      if (!gl) return null;
      const programs = {};
      for (const kind in SOURCES) programs[kind] = program(gl, SOURCES[kind]);
      gl.enable(gl.BLEND);
      gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.depthFunc(gl.LEQUAL);
      return {
        make: layer => new Drawing(gl, programs, layer),
        begin() {
          gl.viewport(0, 0, canvas.width, canvas.height);
          gl.clearColor(0, 0, 0, 0);
          gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
        },
      };
    },
  };
})();
