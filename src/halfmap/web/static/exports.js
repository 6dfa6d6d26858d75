// What other programs take.

import { api } from "./api.js";
import { attempt, Empty } from "./parts.js";
import { html, useState } from "./vendor/preact-htm.module.js";

const KINDS = [
  ["relion", "RELION", "particles.star of the selected classes, with their averages"],
  ["cistem", "cisTEM", "combined_stack.mrcs and .star of the selected classes"],
  ["live2d", "Live2D", "the folder that cisTEM's warp_to_cistem reads, with all particles"],
  ["csv", "Table", "particles.csv of the selected classes, for spreadsheets and scripts"],
  ["averages", "Averages", "the selected class averages as MRC and PNG"],
];

export function ExportTab({ session, viewer }) {
  const [made, setMade] = useState([]);
  const [busy, setBusy] = useState(null);
  const write = async (kind) => {
    setBusy(kind);
    await attempt(async () => {
      const { path } = await api.export(session.id, kind);
      setMade((before) => [{ kind, path }, ...before]);
    });
    setBusy(null);
  };
  if (!session.cycles.length) return html`<${Empty}>There is nothing to export before the first cycle.<//>`;
  const n = session.selection.tracks.length;
  return html`<p class="muted">${n ? `${n} classes are selected.` : "No class is selected: all count as selected."} Files are written into this session's work folder.</p>
    <div class="cards">${KINDS.map(([kind, title, meaning]) => html`<div class="card"><h3>${title}</h3><p class="muted">${meaning}</p>
      <button id=${`export-${kind}`} disabled=${viewer || busy !== null} onClick=${() => write(kind)}>${busy === kind ? "Writing …" : "Write"}</button></div>`)}</div>
    <ul>${made.map((one) => html`<li>${one.kind}: <code>${one.path}</code></li>`)}</ul>`;
}
