// One class average in full size.

import { angstrom, count, decimal, percent } from "./format.js";
import { drawTile, sharpCanvas } from "./gallery.js";
import { html, useEffect, useLayoutEffect, useRef } from "./vendor/preact-htm.module.js";

export function Lightbox({ one, cycle, atlas, viewer, onMove, onChoose, onClose }) {
  const dialog = useRef(null);
  const canvas = useRef(null);
  useLayoutEffect(() => dialog.current.showModal(), []);
  useEffect(() => {
    const side = Math.max(160, Math.min(innerWidth - 48, innerHeight - 220, 640));
    const context = sharpCanvas(canvas.current, side, side);
    context.imageSmoothingQuality = "high";
    drawTile(context, atlas, one.index, 0, 0, side);
  }, [one.index, atlas]);
  return html`<dialog class="lightbox" id="lightbox" ref=${dialog} onClose=${onClose}
      onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <canvas ref=${canvas} role="img" aria-label=${`Class ${one.index}`}></canvas>
    <p id="lightbox-caption">Cycle ${cycle.number} · class ${one.index} · ${count(one.particles)} particles (${percent(one.particles / Math.max(1, cycle.particles))})
      <br /><span class="muted">${angstrom(one.resolution_angstrom)} · score ${decimal(one.score, 2)} · weight ${decimal(one.weight, 1)} · track ${one.track}</span></p>
    <div class="buttons">
      <button aria-label="The class before" onClick=${() => onMove(-1)}>←</button>
      ${!viewer && html`<button class=${one.selected ? "primary" : ""} aria-pressed=${one.selected} onClick=${() => onChoose(one, !one.selected)}>${one.selected ? "Selected" : "Select"}</button>`}
      <button aria-label="The class after" onClick=${() => onMove(1)}>→</button>
      <button onClick=${() => dialog.current.close()}>Close</button>
    </div></dialog>`;
}
