// The class averages of a cycle, and which cycle is looked at.

import { api } from "./api.js";
import { angstrom, clock, count, percent } from "./format.js";
import { Gallery, loadAtlas, SORTS, sorted } from "./gallery.js";
import { History, KINDS } from "./history.js";
import { Lightbox } from "./lightbox.js";
import { Banner, Empty, Problem, useKeys } from "./parts.js";
import { useCycle } from "./session.js";
import { byLikeness } from "./similarity.js";
import { html, useEffect, useMemo, useState } from "./vendor/preact-htm.module.js";

// Which cycle is shown: the newest while it is followed, else the one that was chosen, whatever comes meanwhile.
export function useChosenCycle(cycles) {
  const [chosen, setChosen] = useState(null);
  const newest = cycles.length ? cycles[cycles.length - 1].number : null;
  const known = chosen !== null && cycles.some((one) => one.number === chosen);
  const number = known ? chosen : newest;
  const choose = (next) => setChosen(next === newest ? null : next);
  const step = (by) => {
    const at = cycles.findIndex((one) => one.number === number) + by;
    if (cycles[at]) choose(cycles[at].number);
  };
  return { number, newest, follows: !known, choose, step, follow: () => setChosen(null) };
}

function useAtlas(cycle) {
  const [atlas, setAtlas] = useState(null);
  useEffect(() => {
    if (!cycle) return undefined;
    let wanted = true;
    loadAtlas(cycle.atlas.url).then((image) => wanted && setAtlas({ number: cycle.number, image, ...cycle.atlas }));
    return () => { wanted = false; };
  }, [cycle?.number]);
  return atlas?.number === cycle?.number ? atlas : null;
}

const briefly = (cycle) => html`<p class="meta">Cycle ${cycle.number} · ${KINDS[cycle.kind]} · ${angstrom(cycle.resolution_angstrom)}</p>`;

// Another cycle beside, each class where its track is in the first; those of other tracks follow.
function Beside({ id, number, selected, order, tile }) {
  const [cycle, error] = useCycle(id, number, selected);
  const atlas = useAtlas(cycle);
  const matched = useMemo(() => {
    const left = new Map(cycle?.classes.map((one) => [one.track, one]));
    const found = order.map((one) => {
      const match = left.get(one.track) ?? null;
      left.delete(one.track);
      return match;
    });
    return [...found, ...left.values()];
  }, [cycle, order]);
  return html`<div><${Problem} error=${error} /><div id="beside-meta">${cycle && briefly(cycle)}</div>
    <${Gallery} id="gallery-beside" order=${matched} atlas=${atlas} tile=${tile} /></div>`;
}

export function ClassesTab({ session, viewer, act }) {
  const { cycles, selection, id } = session;
  const at = useChosenCycle(cycles);
  const [cycle, error] = useCycle(id, at.number, selection.tracks);
  const [sort, setSort] = useState("size");
  const [tile, setTile] = useState(Number(localStorage.getItem("halfmap-tile") ?? 132));
  const [focus, setFocus] = useState(0);
  const [open, setOpen] = useState(false);
  const [beside, setBeside] = useState(null);
  useEffect(() => localStorage.setItem("halfmap-tile", tile), [tile]);
  const shownAtlas = useAtlas(cycle);
  const likeness = useMemo(() => (sort === "likeness" && shownAtlas ? byLikeness(cycle.classes, shownAtlas).map((one) => one.index) : null), [sort, shownAtlas]);
  const order = useMemo(() => {
    if (!cycle) return [];
    if (!likeness) return sorted(cycle.classes, sort === "likeness" ? "size" : sort);
    const by = new Map(cycle.classes.map((one) => [one.index, one]));
    return likeness.map((index) => by.get(index));
  }, [cycle, sort, likeness]);
  const current = order[Math.min(focus, order.length - 1)];
  const choose = (one, selected) => !viewer && one && act(() => api.select(id, cycle.number, [one.index], selected));
  const chooseAll = (selected) => act(() => api.select(id, cycle.number, order.map((one) => one.index), selected));
  const undo = () => !viewer && selection.can_undo && act(() => api.undo(id));
  const move = (by) => setFocus((before) => Math.max(0, Math.min(order.length - 1, before + by)));
  useKeys({
    s: () => choose(current, true), r: () => choose(current, false), u: undo,
    " ": () => choose(current, !current?.selected), Enter: () => setOpen(!open),
    ArrowLeft: () => move(-1), ArrowRight: () => move(1),
    "[": () => at.step(-1), "]": () => at.step(1), l: at.follow,
  });
  if (!cycles.length) return html`<${Empty}>New classes will appear here.<//>`;
  const chosen = order.filter((one) => one.selected);
  const kept = chosen.reduce((sum, one) => sum + one.particles, 0);
  return html`<${History} cycles=${cycles} at=${at} /><${Problem} error=${error} />
    ${cycle && html`<p class="meta" id="cycle-meta">Cycle ${cycle.number} · ${KINDS[cycle.kind]} · ${count(cycle.particles)} particles ·
      limit ${angstrom(cycle.resolution_angstrom)} · finished ${clock(cycle.finished)}</p>
    ${cycle.orientation_hint && html`<${Banner}>${cycle.orientation_hint}<//>`}
    <div class="toolbar">
      <label>Sort <select id="sort" value=${sort} onChange=${(event) => { setSort(event.target.value); setFocus(0); }}>
        ${Object.entries(SORTS).map(([name, one]) => html`<option value=${name}>${one.label}</option>`)}<option value="likeness">likeness</option></select></label>
      <label class="tile-size">Size <input id="tile" type="range" min="72" max="256" step="4" value=${tile} onInput=${(event) => setTile(event.target.valueAsNumber)} /></label>
      <label>Beside <select id="beside" value=${beside ?? ""} onChange=${(event) => setBeside(Number(event.target.value) || null)}><option value="">–</option>
        ${[...cycles].reverse().map((one) => html`<option key=${one.number} value=${one.number}>Cycle ${one.number}</option>`)}</select></label>
      <span id="selected-count">${chosen.length} of ${order.length} selected, ${count(kept)} particles (${percent(kept / Math.max(1, cycle.particles))})</span>
      ${!viewer && html`<button id="select-all" onClick=${() => chooseAll(true)}>All</button>
        <button id="select-none" onClick=${() => chooseAll(false)}>None</button>
        <button id="undo" disabled=${!selection.can_undo} onClick=${undo}>Undo</button>`}
    </div>
    <div class=${beside === null ? "" : "side-by-side"}><div>${beside !== null && briefly(cycle)}
      <${Gallery} order=${order} atlas=${shownAtlas} tile=${tile} focus=${focus} onFocus=${setFocus}
        onToggle=${(one) => choose(one, !one.selected)} onOpen=${(k) => { setFocus(k); setOpen(true); }} /></div>
      ${beside !== null && html`<${Beside} id=${id} number=${beside} selected=${selection.tracks} order=${order} tile=${tile} />`}</div>
    <p class="hidden-text" aria-live="polite">${current && `Class ${current.index}, ${count(current.particles)} particles${current.selected ? ", selected" : ""}`}</p>`}
    ${open && current && shownAtlas && html`<${Lightbox} one=${current} cycle=${cycle} atlas=${shownAtlas} viewer=${viewer}
      onMove=${move} onChoose=${choose} onClose=${() => setOpen(false)} />`}`;
}
