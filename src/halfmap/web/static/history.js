// All cycles: a slider and a list; older ones stay open as long as they are looked at.

import { count } from "./format.js";
import { html } from "./vendor/preact-htm.module.js";

export const KINDS = { seed: "random seed", startup: "start-up", refinement: "refinement", incremental: "incremental" };

export function History({ cycles, at }) {
  const place = Math.max(0, cycles.findIndex((one) => one.number === at.number));
  const shown = cycles[place];
  return html`<div class="history">
    <button id="older" aria-label="An older cycle" disabled=${place === 0} onClick=${() => at.step(-1)}>‹</button>
    <input id="history" type="range" min="0" max=${cycles.length - 1} value=${place} aria-label="Cycle" aria-valuetext=${`Cycle ${shown.number}`}
      onInput=${(event) => at.choose(cycles[event.target.valueAsNumber].number)} />
    <button id="newer" aria-label="A newer cycle" disabled=${place === cycles.length - 1} onClick=${() => at.step(1)}>›</button>
    <select id="cycle" value=${at.number} aria-label="Cycle" onChange=${(event) => at.choose(Number(event.target.value))}>
      ${[...cycles].reverse().map((one) => html`<option key=${one.number} value=${one.number}>Cycle ${one.number} – ${KINDS[one.kind]} – ${count(one.particles)} particles</option>`)}</select>
    <span class="dot ${shown.kind}" title=${KINDS[shown.kind]}></span>
    ${at.follows ? html`<span class="status good" id="follows">newest</span>`
      : html`<button id="follow" class="primary small" onClick=${at.follow}>Newest is ${at.newest}</button>`}
  </div>`;
}
