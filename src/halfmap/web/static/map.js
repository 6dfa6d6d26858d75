// A map: its surface at a level that can be moved, and slices.

import { api } from "./api.js";
import { decimal } from "./format.js";
import { hasWebGL, MeshView } from "./mesh_view.js";
import { Banner, Empty, Problem, Tabs, useAnswer, useLater } from "./parts.js";
import { html, useMemo, useState } from "./vendor/preact-htm.module.js";

// Positions within the unit sphere, of positions in Å from the map's centre.
function scaled(vertices) {
  let most = 1e-6;
  for (let k = 0; k < vertices.length; k += 3) most = Math.max(most, Math.hypot(vertices[k], vertices[k + 1], vertices[k + 2]));
  return Float32Array.from(vertices, (value) => value / most);
}

export function MapPage({ project, path }) {
  const [tab, setTab] = useState(hasWebGL() ? "surface" : "slices");
  return html`<section class="page"><h1>${path.split("/").pop()}</h1><p class="muted">${path}</p>
    ${!hasWebGL() && html`<${Banner}>This browser has no WebGL 2; slices are shown instead.<//>`}
    <${Tabs} tabs=${[["surface", "Surface"], ["slices", "Slices"]]} current=${tab} onChoose=${setTab} />
    ${tab === "surface" ? html`<${Surface} project=${project} path=${path} />`
      : html`<img class="slices" id="slices" alt="Slices through the middle of the map" src=${api.slices(project, path)} />`}</section>`;
}

function Surface({ project, path }) {
  const [level, setLevel] = useState(null);
  const [typed, setTyped] = useState(null);
  const [mesh, error] = useAnswer(() => api.mesh(project, path, level), [project, path, level]);
  const later = useLater(setLevel, 250);
  const positions = useMemo(() => (mesh ? scaled(mesh.vertices) : null), [mesh]);
  const faces = useMemo(() => (mesh ? Uint32Array.from(mesh.triangles) : null), [mesh]);
  if (!hasWebGL()) return html`<${Empty}>A surface needs WebGL 2.<//>`;
  const value = typed ?? mesh?.level ?? 0;
  return html`<${Problem} error=${error} />
    ${mesh && html`<div class="toolbar"><label>Level <input id="level" type="range" min=${mesh.mean} max=${mesh.maximum}
      step=${(mesh.maximum - mesh.mean) / 400} value=${value}
      onInput=${(event) => { setTyped(event.target.valueAsNumber); later(event.target.valueAsNumber); }} /></label>
      <output>${decimal(value, 4)}${mesh.deviation > 0 ? ` (${decimal((value - mesh.mean) / mesh.deviation, 1)} σ)` : ""}</output></div>`}
    <${MeshView} positions=${positions} faces=${faces} />`;
}
