// One micrograph: how it looks, its picks, and what is changed of them by eye.

import { api } from "./api.js";
import { angstrom, count, decimal } from "./format.js";
import { MicrographView } from "./micrograph_view.js";
import { attempt, Problem, tell, useAnswer, useKeys, useLater } from "./parts.js";
import { Edits, noEdits } from "./picks.js";
import { html, useEffect, useRef, useState } from "./vendor/preact-htm.module.js";

const PAGE = 500;
const NO_CYCLES = 1e6;
const NO_PICKS = [];
const PICKERS = ["AutoPick", "ManualPick"];
const USUAL_SHARE = 1 / 60;
const FINDS_ITSELF = ["movies", "micrographs"]; // particles, of the diameter for which the mask is right

// The particle's radius in pixels of the micrograph, where its diameter is known.
function radiusOf(session, shown) {
  const wanted = { ...session?.settings, ...session?.staged };
  const picked = FINDS_ITSELF.includes(session?.kind) ? wanted.mask_radius_angstrom / 0.6 : null;
  const diameter = session?.source.settings.diameter_angstrom?.value ?? picked;
  if (diameter && shown?.pixel_size_angstrom) return diameter / 2 / shown.pixel_size_angstrom;
  return shown ? shown.width * USUAL_SHARE : 20;
}

// All micrographs in short, read a page at a time, and how to change one of them.
function useRows(id) {
  const [rows, setRows] = useState([]);
  useEffect(() => {
    let wanted = true;
    (async () => {
      let found = [];
      for (let total = 1; wanted && found.length < total;) {
        const page = await api.micrographs(id, found.length, PAGE);
        found = [...found, ...page.micrographs];
        total = page.micrographs.length ? page.total : 0;
        if (wanted) setRows(found);
      }
    })().catch((error) => tell(error.message, "bad"));
    return () => { wanted = false; };
  }, [id]);
  const change = (name, values) => setRows((before) => before.map((one) => (one.name === name ? { ...one, ...values } : one)));
  return [rows, change];
}

// The picture at an address; of the same micrograph the one before stays until it is there.
function useImage(name, address) {
  const [shown, setShown] = useState({ name, image: null });
  const [error, setError] = useState(null);
  useEffect(() => {
    if (!address) return undefined;
    let wanted = true;
    const one = new Image();
    one.onload = () => { if (wanted) { setShown({ name, image: one }); setError(null); } };
    one.onerror = () => wanted && setError(new Error("The micrograph's picture cannot be read."));
    one.src = address;
    return () => { wanted = false; };
  }, [address]);
  return [shown.name === name ? shown.image : null, error];
}

// Edits of a session, kept by the browser until they are saved.
function useEdits(id) {
  const kept = `halfmap-picks ${id}`;
  const [edits, setEdits] = useState(() => new Edits({ ...noEdits(), ...JSON.parse(sessionStorage.getItem(kept) ?? "{}") }));
  useEffect(() => sessionStorage.setItem(kept, JSON.stringify(edits.now)), [edits]);
  return [edits, setEdits];
}

export function MicrographPage({ id, name, me }) {
  const [rows, changeRow] = useRows(id);
  const place = rows.findIndex((one) => one.name === name);
  const row = rows[place];
  const [job, setJob] = useState("");
  const [look, setLook] = useState({ low_pass: 20, contrast: 3 });
  const [asked, setAsked] = useState(look);
  const later = useLater(setAsked, 200);
  const [radius, setRadius] = useState(null);
  const [label, setLabel] = useState("figure_of_merit");
  const [ends, setEnds] = useState(null);
  const [brush, setBrush] = useState(false);
  const [turn, setTurn] = useState({ fit: 0, zoom: 0, by: 1 });
  const [everywhere, setEverywhere] = useState(true);
  const [edits, setEdits] = useEdits(id);
  const [session] = useAnswer(() => api.session(id, NO_CYCLES), [id]);
  const [jobs] = useAnswer(() => api.jobs(me.project), [me.project]);
  const pickers = jobs?.jobs.filter((one) => PICKERS.includes(one.type) && one.state === "succeeded").map((one) => one.id) ?? NO_PICKS;
  const [answer, error] = useAnswer(() => api.picks(id, name, job), [id, name, job]);
  const [image, imageError] = useImage(name, api.micrographImage(id, name, asked));
  const known = useRef(new Map());
  const mine = answer?.micrograph === name ? answer : null;
  if (mine) known.current.set(name, mine.picks);
  const all = mine?.picks ?? NO_PICKS;
  const picks = edits.shown(name, all);
  const size = mine ? { width: mine.width, height: mine.height } : null;
  const shownRadius = radius ?? radiusOf(session, mine);
  const labels = mine?.labels ?? NO_PICKS;
  const values = all.map((one) => one[label]).filter(Number.isFinite);
  const low = ends?.low ?? (values.length ? Math.min(...values) : 0);
  const high = ends?.high ?? (values.length ? Math.max(...values) : 1);
  const merits = all.map((one) => one.figure_of_merit).filter(Number.isFinite);
  const accepted = !row?.left_out;
  const viewer = me?.role === "viewer";
  const go = (by) => rows[place + by] && (location.hash = `#/sessions/${id}/micrographs/${encodeURIComponent(rows[place + by].name)}`);
  const zoom = (by) => setTurn((before) => ({ ...before, zoom: before.zoom + 1, by }));
  const judge = (yes) => !viewer && attempt(async () => {
    await api.judge(id, { [name]: yes });
    changeRow(name, { judged: yes, left_out: !yes });
  });
  const save = () => attempt(async () => {
    const saved = await api.manualPick(id, { ...edits.toSave((one) => known.current.get(one)), job: job || null });
    setEdits(new Edits());
    tell(`Saved as ${saved.job}.`, "good");
  });
  useKeys({
    ArrowLeft: () => go(-1), ArrowRight: () => go(1), a: () => judge(true), x: () => judge(false), b: () => setBrush(!brush),
    u: () => setEdits(edits.undo()), "+": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => setTurn((before) => ({ ...before, fit: before.fit + 1 })),
  });
  const change = (values) => {
    const next = { ...look, ...values };
    setLook(next);
    later(next);
  };
  const threshold = edits.thresholdOf(name);
  return html`<section class="page"><p><a href=${`#/sessions/${id}/micrographs`}>‹ Micrographs</a></p>
    <div class="toolbar"><button aria-label="The micrograph before" disabled=${place <= 0} onClick=${() => go(-1)}>‹</button>
      <b id="micrograph-name">${name}</b><button aria-label="The micrograph after" disabled=${place < 0 || place >= rows.length - 1} onClick=${() => go(1)}>›</button>
      ${row && html`<span class="muted">${count(place + 1)} of ${count(rows.length)} · ${decimal(row.defocus_angstrom / 1e4, 2)} µm · ${angstrom(row.resolution_angstrom)}</span>`}
      <span id="pick-count" class="status plain">${count(picks.length)} picks</span>
      <span id="accepted" class="status ${accepted ? "good" : "bad"}">${accepted ? "accepted" : "rejected"}</span></div>
    <${Problem} error=${error ?? imageError} />
    <div class="toolbar">
      ${pickers.length > 0 && html`<label>Picks <select id="job" value=${job} onChange=${(event) => setJob(event.target.value)}><option value="">of the session</option>
        ${pickers.map((one) => html`<option value=${one}>${one}</option>`)}</select></label>`}
      <label>Low-pass <input id="low-pass" type="range" min="0" max="60" value=${look.low_pass} onInput=${(event) => change({ low_pass: event.target.valueAsNumber })} /><output>${look.low_pass ? `${look.low_pass} Å` : "none"}</output></label>
      <label>Contrast <input id="contrast" type="range" min="0.5" max="8" step="0.1" value=${look.contrast} onInput=${(event) => change({ contrast: event.target.valueAsNumber })} /></label>
      <label>Radius <input id="radius" type="number" min="2" value=${Math.round(shownRadius)} onInput=${(event) => setRadius(event.target.valueAsNumber || null)} /> px</label>
      ${labels.length > 0 && html`<label>Colour <select id="label" value=${label} onChange=${(event) => { setLabel(event.target.value); setEnds(null); }}>${labels.map((one) => html`<option value=${one}>${one.replaceAll("_", " ")}</option>`)}</select></label>
        <label>blue <input id="blue" type="number" step="any" value=${low} onChange=${(event) => setEnds({ low: event.target.valueAsNumber, high })} /></label>
        <label>red <input id="red" type="number" step="any" value=${high} onChange=${(event) => setEnds({ low, high: event.target.valueAsNumber })} /></label>`}
    </div>
    ${merits.length > 0 && html`<div class="toolbar"><label>Threshold <input id="threshold" type="range" min=${Math.min(...merits)} max=${Math.max(...merits)} step="any"
        value=${threshold ?? Math.min(...merits)} onInput=${(event) => setEdits(edits.limit(everywhere ? null : name, event.target.valueAsNumber))} /></label>
      <output>${threshold === null ? "all picks" : decimal(threshold, 3)}</output>
      <label><input type="checkbox" id="everywhere" checked=${everywhere} onChange=${(event) => setEverywhere(event.target.checked)} /> for all micrographs</label></div>`}
    <${MicrographView} image=${image} size=${size} picks=${picks} radius=${shownRadius} colour=${{ label, low, high }} brush=${brush} turn=${turn}
      onAdd=${(x, y) => setEdits(edits.add(name, x, y))} onRemove=${(gone) => setEdits(edits.remove(name, gone))} />
    <div class="buttons"><button id="brush" class=${brush ? "primary" : ""} aria-pressed=${brush} onClick=${() => setBrush(!brush)}>Brush</button>
      <button id="undo-pick" disabled=${!edits.before.length} onClick=${() => setEdits(edits.undo())}>Undo</button>
      ${!viewer && html`<button id="accept" onClick=${() => judge(true)}>Accept</button><button id="reject" class="danger" onClick=${() => judge(false)}>Reject</button>
        <button id="save-picks" class="primary" disabled=${edits.isEmpty} onClick=${save}>Save as a ManualPick job</button>`}</div></section>`;
}
