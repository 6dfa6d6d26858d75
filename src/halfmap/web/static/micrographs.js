// The micrographs of a session, a page of the table at a time.

import { api } from "./api.js";
import { angstrom, clock, count, decimal } from "./format.js";
import { Empty, Problem, useAnswer } from "./parts.js";
import { html, useState } from "./vendor/preact-htm.module.js";

const ROWS = 50;

export function MicrographsTab({ session, viewer, act }) {
  const [offset, setOffset] = useState(null);
  const total = session.source.micrographs;
  const at = offset ?? Math.max(0, Math.floor((total - 1) / ROWS) * ROWS);
  const [answer, error, again] = useAnswer(() => api.micrographs(session.id, at, ROWS), [session.id, at, total, JSON.stringify(session.limits)]);
  const judge = (one, wanted) => act(async () => {
    await api.judge(session.id, { [one.name]: wanted });
    await again();
  });
  const go = (next) => setOffset(next + ROWS >= total ? null : Math.max(0, next));
  return html`<${Problem} error=${error} />
    <div class="toolbar"><button disabled=${at === 0} onClick=${() => go(at - ROWS)}>‹ older</button>
      <span>${total ? `${count(at + 1)} to ${count(Math.min(total, at + ROWS))} of ${count(total)}` : ""}</span>
      <button disabled=${at + ROWS >= total} onClick=${() => go(at + ROWS)}>newer ›</button></div>
    ${answer && !answer.micrographs.length && html`<${Empty}>No micrographs are listed yet.<//>`}
    ${answer && html`<div class="scroll"><table><thead><tr><th>Micrograph</th><th>Time</th><th>Defocus / µm</th><th>Resolution</th><th>Motion</th><th>Picks</th><th></th></tr></thead>
      <tbody>${[...answer.micrographs].reverse().map((one) => html`<tr key=${one.name}>
        <td><a href=${`#/sessions/${session.id}/micrographs/${encodeURIComponent(one.name)}`}>${one.name}</a>${one.left_out ? html` <span class="status failed">left out</span>` : one.accepted === false && html` <span class="status warning" title="by the program that processed it">rejected</span>`}</td>
        <td>${clock(one.time)}</td><td>${decimal(one.defocus_angstrom / 1e4, 2)}</td><td>${angstrom(one.resolution_angstrom)}</td>
        <td>${angstrom(one.motion_angstrom)}</td><td>${count(one.picks)}</td>
        <td>${!viewer && html`<button class="small" onClick=${() => judge(one, one.left_out ? (one.judged === false ? null : true) : false)}>${one.left_out ? "Take back" : "Leave out"}</button>`}</td></tr>`)}</tbody></table></div>`}`;
}
