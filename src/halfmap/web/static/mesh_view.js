// A surface in WebGL2: turned by dragging, nearer by the wheel or two fingers.

import { useKeys, useWidth } from "./parts.js";
import { html, useEffect, useRef } from "./vendor/preact-htm.module.js";

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal;
uniform mat3 turn; uniform vec2 reach;
out vec3 facing; out float depth;
void main() {
  vec3 p = turn * position;
  facing = turn * normal;
  depth = p.z;
  gl_Position = vec4(p.xy * reach, -p.z * 0.5, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 facing; in float depth;
uniform vec3 colour;
out vec4 shown;
void main() {
  vec3 n = normalize(facing);
  if (n.z < 0.0) n = -n;
  vec3 light = normalize(vec3(0.35, 0.55, 0.9));
  float diffuse = max(0.0, dot(n, light));
  float shine = pow(max(0.0, dot(n, normalize(light + vec3(0.0, 0.0, 1.0)))), 40.0);
  float near = 0.75 + 0.25 * clamp(depth, -1.0, 1.0);
  shown = vec4(colour * (0.25 + 0.75 * diffuse) * near + 0.18 * shine, 1.0);
}`;

export const hasWebGL = () => Boolean(document.createElement("canvas").getContext("webgl2"));

// Normals of vertices: the sum of those of their triangles, which weighs them by area.
export function normalsOf(positions, faces) {
  const normals = new Float32Array(positions.length);
  for (let k = 0; k < faces.length; k += 3) {
    const [a, b, c] = [3 * faces[k], 3 * faces[k + 1], 3 * faces[k + 2]];
    const [ux, uy, uz] = [positions[b] - positions[a], positions[b + 1] - positions[a + 1], positions[b + 2] - positions[a + 2]];
    const [vx, vy, vz] = [positions[c] - positions[a], positions[c + 1] - positions[a + 1], positions[c + 2] - positions[a + 2]];
    const normal = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
    for (const corner of [a, b, c]) for (let d = 0; d < 3; d++) normals[corner + d] += normal[d];
  }
  return normals;
}

// About an axis in the plane of the screen; matrices by column, as WebGL takes them.
export function turned(matrix, dx, dy) {
  const angle = Math.hypot(dx, dy);
  if (!angle) return matrix;
  const [x, y, c, s] = [dy / angle, dx / angle, Math.cos(angle), Math.sin(angle)];
  const r = [c + x * x * (1 - c), x * y * (1 - c), -y * s, x * y * (1 - c), c + y * y * (1 - c), x * s, y * s, -x * s, c];
  const product = new Float32Array(9);
  for (let column = 0; column < 3; column++) {
    for (let row = 0; row < 3; row++) {
      for (let k = 0; k < 3; k++) product[3 * column + row] += r[3 * k + row] * matrix[3 * column + k];
    }
  }
  return product;
}

function compiled(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return program;
}

class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
    this.program = compiled(this.gl);
    this.turn = turned(new Float32Array([1, 0, 0, 0, 1, 0, 0, 0, 1]), 0.5, 0.35);
    this.zoom = 0.95;
    this.count = 0;
  }

  // positions within −1 … 1
  show(positions, faces) {
    const { gl, program } = this;
    for (const [name, values] of [["position", positions], ["normal", normalsOf(positions, faces)]]) {
      const place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    this.count = faces.length;
    this.draw();
  }

  draw() {
    const { gl, program, canvas } = this;
    const ratio = canvas.width / canvas.height;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0.09, 0.1, 0.13, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(program);
    gl.uniformMatrix3fv(gl.getUniformLocation(program, "turn"), false, this.turn);
    gl.uniform2f(gl.getUniformLocation(program, "reach"), ratio > 1 ? this.zoom / ratio : this.zoom, ratio > 1 ? this.zoom : this.zoom * ratio);
    gl.uniform3f(gl.getUniformLocation(program, "colour"), 0.45, 0.68, 0.95);
    if (this.count) gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
  }

  rotate(dx, dy) {
    this.turn = turned(this.turn, dx, dy);
    this.draw();
  }

  nearer(factor) {
    this.zoom = Math.max(0.2, Math.min(20, this.zoom * factor));
    this.draw();
  }

  end() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

export function MeshView({ positions, faces }) {
  const [box, width] = useWidth();
  const canvas = useRef(null);
  const scene = useRef(null);
  const pointers = useRef(new Map());
  useEffect(() => {
    scene.current = new Scene(canvas.current);
    const wheel = (event) => {
      event.preventDefault();
      scene.current.nearer(Math.exp(-event.deltaY / 500));
    };
    const node = canvas.current;
    node.addEventListener("wheel", wheel, { passive: false });
    return () => { node.removeEventListener("wheel", wheel); scene.current.end(); };
  }, []);
  useEffect(() => {
    if (!width) return;
    const height = Math.min(width, 640, innerHeight - 200);
    const ratio = window.devicePixelRatio || 1;
    Object.assign(canvas.current, { width: width * ratio, height: height * ratio });
    canvas.current.style.height = `${height}px`;
    scene.current.draw();
  }, [width]);
  useEffect(() => { if (positions) scene.current.show(positions, faces); }, [positions, faces]);
  const move = (event) => {
    const before = pointers.current.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
    pointers.current.set(event.pointerId, now);
    if (other) scene.current.nearer(Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1])));
    else scene.current.rotate((now[0] - before[0]) / 150, (now[1] - before[1]) / 150);
  };
  const ended = (event) => pointers.current.delete(event.pointerId);
  const turn = (dx, dy) => () => scene.current.rotate(dx, dy);
  useKeys({
    ArrowLeft: turn(-0.1, 0), ArrowRight: turn(0.1, 0), ArrowUp: turn(0, -0.1), ArrowDown: turn(0, 0.1),
    "+": () => scene.current.nearer(1.15), "-": () => scene.current.nearer(1 / 1.15),
  });
  return html`<div class="mesh" ref=${box}><canvas ref=${canvas} id="mesh" role="img" aria-label="The map's surface; drag to turn it"
    onPointerDown=${(event) => { canvas.current.setPointerCapture(event.pointerId); pointers.current.set(event.pointerId, [event.clientX, event.clientY]); }}
    onPointerMove=${move} onPointerUp=${ended} onPointerCancel=${ended}></canvas></div>`;
}
