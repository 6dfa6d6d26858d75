// Curves of a session, with limits drawn across them beyond which micrographs are left out.

import { api } from "./api.js";
import { count, percent } from "./format.js";
import { colours } from "./gallery.js";
import { NotificationButton } from "./notices.js";
import { Empty, Problem, useAnswer, useLater, useWidth } from "./parts.js";
import { html, useEffect, useRef, useState } from "./vendor/preact-htm.module.js";
import uPlot from "./vendor/uPlot.esm.js";

const HEIGHT = 190;
const TEN_THOUSANDTHS = 1e4;
const ALONE = 60; // what is shown on both sides of a single point: seconds, or cycles

// name, title, how a value is shown, and its limits: [name of the threshold, label, kept are those above?]
const POINTS = [
  ["ctf_resolution", "CTF resolution / Å", 1, [["max_resolution_angstrom", "at most", false]]],
  ["defocus", "Defocus / µm", TEN_THOUSANDTHS, [["min_defocus_angstrom", "at least", true], ["max_defocus_angstrom", "at most", false]]],
  ["motion", "Motion / Å", 1, [["max_motion_angstrom", "at most", false]]],
  ["picks", "Picks per micrograph", 1, [["min_picks", "at least", true]]],
];

export function PlotsTab({ session, viewer, act }) {
  const { counts, limits: held } = session;
  const [plots, error] = useAnswer(() => api.plots(session.id), [session.id, session.source.micrographs, session.source.particles, session.cycles.length]);
  const [typed, setTyped] = useState(null);
  const [lost, setLost] = useState(null);
  const limits = typed ?? held.values;
  const ask = useLater(async (values) => setLost(Object.keys(values).length ? await api.thresholds(session.id, values) : null), 120);
  useEffect(() => { ask(limits); }, [JSON.stringify(limits), session.source.micrographs, session.source.particles]);
  const set = (name, value) => setTyped(() => {
    const { [name]: _, ...others } = limits;
    return value === null ? others : { ...others, [name]: value };
  });
  const send = (action) => act(async () => {
    await action();
    setTyped(null);
  });
  const isNew = typed !== null && JSON.stringify(Object.entries(typed).sort()) !== JSON.stringify(Object.entries(held.values).sort());
  const told = plots?.convergence;
  return html`<div class="toolbar"><${NotificationButton} />
      ${counts.rate_per_hour > 0 && html`<span>${count(counts.rate_per_hour)} particles an hour</span>`}
      ${lost && html`<span id="lost" class="status warning">${isNew ? "would be left out" : "left out"}: ${count(lost.micrographs_lost)} of ${count(lost.micrographs)} micrographs, ${count(lost.particles_lost)} particles (${percent(lost.particles_lost / Math.max(1, lost.particles_lost + lost.particles_kept))})</span>`}
      ${!viewer && html`${isNew && html`<button id="set-limits" class="primary" onClick=${() => send(() => api.setLimits(session.id, typed))}>Leave these out</button>
          <button id="keep-limits" onClick=${() => setTyped(null)}>Cancel</button>`}
        ${!isNew && Object.keys(limits).length > 0 && html`<button id="clear-limits" onClick=${() => send(() => api.setLimits(session.id, {}))}>Take all back</button>`}
        ${!isNew && held.can_undo && html`<button id="undo-limits" onClick=${() => send(() => api.undoLimits(session.id))}>Undo</button>`}`}</div>
    <${Problem} error=${error} />
    ${plots && html`<div class="plots">
      <${Curve} title="Particles" t=${plots.particles.t} y=${plots.particles.y} isTime />
      <${Curve} title="Micrographs" t=${plots.micrographs.t} y=${plots.micrographs.y} isTime />
      ${POINTS.map(([name, title, per, thresholds]) => html`<${Limited} key=${name} title=${title} data=${plots[name]} per=${per} thresholds=${thresholds} limits=${limits} onSet=${set} />`)}
      <${Curve} title="Log-likelihood" t=${told.cycle} y=${told.log_likelihood} />
      <${Curve} title="Particles that changed class / %" t=${told.cycle} y=${told.changed_percent} />
      <${Curve} title="Mean probability of the best class" t=${told.cycle} y=${told.mean_probability} />
    </div>`}`;
}

function Limited({ title, data, per, thresholds, limits, onSet }) {
  const values = data.y.filter((one) => one !== null);
  if (!values.length) return null;
  const y = data.y.map((one) => (one === null ? null : one / per));
  const [least, most] = [Math.min(...values) / per, Math.max(...values) / per];
  const step = thresholds[0][0] === "min_picks" ? 1 : Math.max((most - least) / 200, 1e-3);
  const lines = thresholds.filter(([name]) => limits[name] !== undefined).map(([name]) => limits[name] / per);
  return html`<${Curve} title=${title} t=${data.t} y=${y} isTime isPoints lines=${lines}>
    ${most > least && thresholds.map(([name, label, above]) => {
      const open = above ? least : most;
      const value = limits[name] === undefined ? open : limits[name] / per;
      return html`<label class="limit">${label} <input type="range" id=${`limit-${name}`} min=${least} max=${most} step=${step} value=${value}
        onInput=${(event) => onSet(name, isOpen(event.target, above) ? null : event.target.valueAsNumber * per)} />
        <output>${limits[name] === undefined ? "all" : value.toFixed(step >= 1 ? 0 : 2)}</output></label>`;
    })}<//>`;
}

const isOpen = (field, above) => (above ? field.valueAsNumber <= Number(field.min) : field.valueAsNumber >= Number(field.max) - Number(field.step));

function Curve({ title, t, y, isTime, isPoints, lines = [], children }) {
  const [box, width] = useWidth();
  const place = useRef(null);
  const plot = useRef(null);
  const drawn = useRef(lines);
  drawn.current = lines;
  const empty = !t.length;
  useEffect(() => {
    if (!width || empty) return undefined;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options({ width, isTime, isPoints, lines: () => drawn.current }), [t, y], place.current);
    };
    make();
    document.addEventListener("halfmap-theme", make);
    return () => {
      document.removeEventListener("halfmap-theme", make);
      plot.current.destroy();
      plot.current = null;
    };
  }, [width, empty]);
  useEffect(() => { plot.current?.setData([t, y]); }, [t, y]);
  useEffect(() => { plot.current?.redraw(false); }, [lines.join()]);
  return html`<figure class="card plot"><h3>${title}</h3><div ref=${box}><div ref=${place}></div>${empty && html`<${Empty}>Nothing yet.<//>`}</div>${children}</figure>`;
}

function options({ width, isTime, isPoints, lines }) {
  const colour = colours();
  const axis = { stroke: colour.muted, grid: { stroke: colour.rule, width: 1 }, ticks: { stroke: colour.rule }, font: "11px system-ui", size: isTime ? 48 : 32 };
  return {
    width, height: HEIGHT, legend: { show: false }, cursor: { y: false, drag: { x: true, y: false } },
    scales: { x: { time: Boolean(isTime), range: (plot, from, to) => (plot.data[0].length === 1 ? [from - ALONE, from + ALONE] : [from, to]) } },
    axes: [axis, { ...axis, size: 56 }],
    series: [{}, {
      stroke: colour.accent, width: isPoints ? 0 : 2, paths: isPoints ? () => null : undefined,
      points: { show: isPoints || undefined, size: 4, fill: colour.accent, stroke: colour.accent, width: 0 },
    }],
    hooks: { draw: [(plot) => across(plot, lines(), colour.bad)] },
  };
}

// Limits as lines across a plot.
function across(plot, values, colour) {
  const { ctx: context, bbox } = plot;
  context.save();
  context.strokeStyle = colour;
  context.lineWidth = 2;
  context.setLineDash([8, 5]);
  for (const value of values) {
    const y = plot.valToPos(value, "y", true);
    context.beginPath();
    context.moveTo(bbox.left, y);
    context.lineTo(bbox.left + bbox.width, y);
    context.stroke();
  }
  context.restore();
}
