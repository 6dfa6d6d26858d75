// How classes went on from cycle to cycle: a row for each track, a column for each cycle.

import { api } from "./api.js";
import { short } from "./format.js";
import { colours, drawTile, loadAtlas, sharpCanvas } from "./gallery.js";
import { Empty, Problem, useWidth } from "./parts.js";
import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.module.js";

const SIDE = 56;
const GAP = 6;
const LEFT = 56;
const TOP = 22;
const ROW = SIDE + 16 + GAP;
const MOST_ROWS = 60;

// The cycles that fit, ending with the newest, read once each.
function useRecent(id, cycles, n) {
  const kept = useRef(new Map());
  const [read, setRead] = useState([]);
  const [error, setError] = useState(null);
  const numbers = cycles.slice(-n).map((one) => one.number);
  useEffect(() => {
    let wanted = true;
    Promise.all(numbers.map(async (number) => {
      if (!kept.current.has(number)) {
        const cycle = await api.cycle(id, number);
        kept.current.set(number, { ...cycle, atlas: { ...cycle.atlas, image: await loadAtlas(cycle.atlas.url) } });
      }
      return kept.current.get(number);
    })).then((all) => wanted && setRead(all), (failure) => wanted && setError(failure));
    return () => { wanted = false; };
  }, [id, numbers.join()]);
  return [read, error];
}

export function TracksTab({ session }) {
  const [box, width] = useWidth();
  const canvas = useRef(null);
  const columns = Math.max(1, Math.floor((width - LEFT) / (SIDE + GAP)));
  const [cycles, error] = useRecent(session.id, session.cycles, Math.min(12, columns));
  const rows = useMemo(() => {
    const newest = cycles.at(-1);
    return newest ? [...newest.classes].sort((a, b) => b.particles - a.particles).slice(0, MOST_ROWS).map((one) => one.track) : [];
  }, [cycles]);
  const selected = new Set(session.selection.tracks);
  useEffect(() => {
    if (width && rows.length) paint(canvas.current, cycles, rows, selected, width);
  }, [cycles, rows, width, session.selection.tracks.join()]);
  if (!session.cycles.length) return html`<div ref=${box}><${Empty}>Tracks appear with the first cycle.<//></div>`;
  return html`<p class="muted">The ${rows.length} largest classes of the newest cycle, and what they were before.</p><${Problem} error=${error} />
    <div ref=${box} class="gallery"><canvas ref=${canvas} id="tracks" role="img" aria-label="Classes from cycle to cycle"></canvas></div>`;
}

function paint(canvas, cycles, rows, selected, width) {
  const context = sharpCanvas(canvas, width, TOP + rows.length * ROW);
  const colour = colours();
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  cycles.forEach((cycle, column) => {
    const x = LEFT + column * (SIDE + GAP);
    const byTrack = new Map(cycle.classes.map((one) => [one.track, one]));
    context.fillStyle = colour.muted;
    context.textAlign = "left";
    context.fillText(cycle.number, x, TOP / 2);
    rows.forEach((track, row) => {
      const one = byTrack.get(track);
      const y = TOP + row * ROW;
      if (column === 0) {
        context.fillStyle = selected.has(track) ? colour.good : colour.muted;
        context.fillText(`${selected.has(track) ? "✓ " : ""}${track}`, 0, y + SIDE / 2);
      }
      if (!one) return;
      drawTile(context, cycle.atlas, one.index, x, y, SIDE);
      context.fillStyle = colour.muted;
      context.fillText(short(one.particles), x, y + SIDE + 8);
    });
  });
}
