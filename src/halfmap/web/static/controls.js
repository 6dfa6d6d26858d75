// The left panel: what runs, what is set and staged, and where it comes from.

import { api } from "./api.js";
import { clock, count, short } from "./format.js";
import { attempt, Confirm, Progress, tell, useAnswer, useLater } from "./parts.js";
import { html, useEffect, useState } from "./vendor/preact-htm.module.js";

// Live2D's names of the settings, in its order.
const USER = [
  ["mask_radius_angstrom", "Mask Radius"], ["classification_type", "Classification Type"],
  ["first_threshold", "Particle Count Before Starting"], ["next_threshold", "Additional Particle Count Before Update"],
  ["classes", "Number of Classes"],
];
const EXPERT = [
  ["initial_resolution_angstrom", "Initial High Res Limit"], ["final_resolution_angstrom", "Final High Res Limit"],
  ["startup_cycles", "Startup Cycles"], ["refinement_cycles", "Refinement Cycles"],
  ["particles_per_class", "Initial Particles Per Class"], ["automask", "Automask"], ["autocentre", "Autocenter"], ["seed", "Seed"],
];
const TYPES = { abinit: "Ab initio", seeded: "Seeded start-up", refine: "Refinement", incremental: "Incremental" };
const UNUSED = {
  abinit: [], seeded: ["classes", "particles_per_class"],
  refine: ["classes", "particles_per_class", "initial_resolution_angstrom", "startup_cycles"],
  incremental: ["classes", "particles_per_class"],
};
const SOURCE = {
  pixel_size_angstrom: "Pixel size", box_pixel: "Box", diameter_angstrom: "Particle diameter", net_name: "Active neural net",
  micrograph_pixel_size_angstrom: "Pixel size of micrographs", score_threshold: "Score threshold", exports_particles: "Particles are exported", particles_are_bright: "Particles are bright",
};
const STATES = { stopped: "Stopped", running: "Running", listening: "Listening", stopping: "Stopping", failed: "Failed" };

export function Controls({ session, viewer, act }) {
  const [asking, setAsking] = useState(false);
  const { id, state, counts } = session;
  const busy = state === "running" || state === "stopping";
  const form = useStaged(session, act);
  const send = (action) => act(async () => { await action(id, form.take()); });
  return html`<h1 class="session-name">${session.name}${session.microscope && html` <small>on ${session.microscope}</small>`}</h1>
    <p class="muted folder-line" title=${session.folder}>${session.kind} · ${session.folder.split("/").pop()}</p>
    <p class="job-status"><span class="status ${state}" id="job-status">${STATES[state] ?? state}</span> ${jobLine(session)}</p>
    ${session.why_idle && html`<p class="why" id="why-idle">${session.why_idle}</p>`}
    <${Progress} progress=${session.progress} />
    <dl class="facts">
      <div><dt>Particles</dt><dd title=${count(session.source.particles)}>${short(session.source.particles)}</dd></div>
      <div><dt>Classified</dt><dd>${short(counts.classified)}</dd></div>
      <div><dt>New since</dt><dd>${short(counts.since_last)} / ${short(counts.threshold)}</dd></div>
      ${session.limits.micrographs_out > 0 && html`<div id="left-out"><dt>Left out</dt><dd title=${`${count(session.limits.micrographs_out)} micrographs`}>${short(session.limits.particles_out)}</dd></div>`}
      <div><dt>Rate</dt><dd>${counts.rate_per_hour > 0 ? `${short(counts.rate_per_hour)} / h` : "–"}</dd></div>
      <div><dt>Target</dt><dd>${counts.eta ? clock(counts.eta) : "–"}</dd></div>
    </dl>
    ${!viewer && html`<div class="buttons stack">
      <button id="start-now" class="primary" disabled=${busy} onClick=${() => send(api.start)}>Start Job Now</button>
      <button id="start-automatic" disabled=${busy || state === "listening"} onClick=${() => send(api.startAutomatic)}>Start Automatic Jobs</button>
      <button id="stop" disabled=${state === "stopped" || state === "stopping"} onClick=${() => act(() => api.stop(id))}>Stop All Jobs</button>
      <button id="stop-hard" class="danger" disabled=${!busy} onClick=${() => setAsking(true)}>Stop at once …</button></div>`}
    ${asking && html`<${Confirm} title="Stop at once?" yes="Stop at once" onNo=${() => setAsking(false)}
      onYes=${() => { setAsking(false); act(() => api.stopHard(id)); }}>
      <p>The cycle that runs is lost; all cycles before it stay. “Stop All Jobs” finishes it first.</p><//>`}
    <fieldset class="settings" disabled=${viewer}>
      <details open><summary>User Settings</summary>${USER.map(([name, label]) => html`<${Setting} ...${form.of(name)} label=${label} />`)}</details>
      <details><summary>Expert Settings</summary>${EXPERT.map(([name, label]) => html`<${Setting} ...${form.of(name)} label=${label} />`)}</details>
      ${form.problem && html`<p class="banner bad" role="alert">${form.problem}</p>`}
      ${form.isStaged && html`<p class="muted">Staged settings count from the next start on. <button type="button" class="link" id="unstage" onClick=${form.reset}>Take them back</button></p>`}
    </fieldset>
    <details class="source" open><summary>From the acquisition</summary><dl>
      ${Object.entries(session.source.settings).map(([name, one]) => html`<div><dt>${SOURCE[name] ?? name}</dt>
        <dd>${shown(one.value)}${one.unit ? ` ${one.unit}` : ""}<small>${one.provenance}</small></dd></div>`)}</dl></details>
    ${!viewer && html`<${Housekeeping} session=${session} act=${act} />`}`;
}

// What is done rarely: settings of an earlier run of Live2D, and closing the session.
function Housekeeping({ session, act }) {
  const [closing, setClosing] = useState(false);
  const take = async (field) => {
    const [file] = field.files;
    field.value = "";
    if (file) {
      await act(async () => {
        const { staged } = await api.stageLive2d(session.id, settingsOf(await file.text()));
        tell(`${Object.keys(staged).length} settings are staged.`, "good");
      });
    }
  };
  return html`<details class="housekeeping"><summary>Session</summary>
      <p><label>Settings of a Live2D run <small class="muted">latest_run.json</small>
        <input type="file" id="live2d-run" accept=".json" onChange=${(event) => take(event.target)} /></label></p>
      <button id="close-session" class="danger" onClick=${() => setClosing(true)}>Close this session …</button></details>
    ${closing && html`<${Confirm} title="Close this session?" yes="Close it" onNo=${() => setClosing(false)}
      onYes=${() => { setClosing(false); attempt(async () => { await api.closeSession(session.id); location.hash = "#/"; }); }}>
      <p>It is not watched any more, for nobody; a cycle that runs is lost. Everything found so far is kept, and opening the folder again goes on from it.</p><//>`}`;
}

function settingsOf(text) {
  try {
    return JSON.parse(text).settings ?? {};
  } catch {
    throw new Error("The file must be JSON, as Live2D's latest_run.json is.");
  }
}

function jobLine({ job }) {
  return job ? html`<span class="muted">${TYPES[job.type]}, ${job.cycles} cycles from cycle ${job.first_cycle} on</span>` : null;
}

const shown = (value) => (typeof value === "boolean" ? (value ? "yes" : "no") : typeof value === "number" ? String(+value.toPrecision(6)) : value || "–");

// The form: what was typed here goes before what is staged on the server, and is staged a moment after.
function useStaged(session, act) {
  const [schema] = useAnswer(() => api.settingsSchema(session.id), [session.id]);
  const [typed, setTyped] = useState({});
  const [problem, setProblem] = useState(null);
  const values = { ...defaults(schema), ...session.settings, ...session.staged };
  const now = { ...values, ...typed };
  const stage = useLater(async (given) => {
    try {
      await api.stage(session.id, given);
      setProblem(null);
    } catch (error) {
      setProblem(error.message);
    }
  }, 500);
  useEffect(() => {  // what the server holds need not be kept here as well
    const left = Object.fromEntries(Object.entries(typed).filter(([name, value]) => values[name] !== value));
    if (Object.keys(left).length !== Object.keys(typed).length) setTyped(left);
  }, [JSON.stringify(values)]);
  const change = (name, value) => {
    const next = { ...typed, [name]: value };
    setTyped(next);
    if (Object.values(next).every((one) => one !== null)) stage(next);
    else setProblem("A number is missing.");
  };
  const differs = (name) => now[name] !== ({ ...defaults(schema), ...session.settings })[name];
  const mask = session.source.settings.diameter_angstrom;
  return {
    problem,
    isStaged: Object.keys(now).some(differs),
    take: () => {
      if (Object.values(typed).some((one) => one === null)) throw new Error("A number is missing; fill it in.");
      return typed;
    },
    reset: () => {
      setTyped({});
      setProblem(null);
      act(() => api.stage(session.id, { ...defaults(schema), ...session.settings }));
    },
    of: (name) => ({
      name, value: now[name], schema: schema?.properties[name], staged: differs(name),
      unused: (UNUSED[now.classification_type] ?? []).includes(name),
      provenance: name === "mask_radius_angstrom" && mask && now[name] === Math.floor(0.6 * mask.value) ? `guessed: 1.2 × the radius, from ${mask.provenance}` : null,
      onChange: (value) => change(name, value),
    }),
  };
}

function defaults(schema) {
  return Object.fromEntries(Object.entries(schema?.properties ?? {}).map(([name, one]) => [name, one.default]));
}

function Setting({ name, label, value, schema, staged, unused, provenance, onChange }) {
  if (!schema) return null;
  const field = schema.enum
    ? html`<div class="radios" role="radiogroup" aria-label=${label}>${schema.enum.map((one) => html`<label><input type="radio" name=${name} value=${one}
        checked=${one === value} onChange=${() => onChange(one)} /> ${TYPES[one] ?? one}</label>`)}</div>`
    : schema.type === "boolean"
      ? html`<input type="checkbox" id=${`set-${name}`} checked=${value} onChange=${(event) => onChange(event.target.checked)} />`
      : html`<input type="number" id=${`set-${name}`} value=${value} disabled=${unused} step=${schema.type === "integer" ? 1 : "any"}
          min=${schema.minimum ?? schema.exclusiveMinimum} onInput=${(event) => onChange(numberOf(event.target, schema))} />`;
  return html`<div class="setting ${staged ? "staged" : ""} ${schema.type === "boolean" ? "check" : ""}" title=${schema.description}>
    <label for=${`set-${name}`}>${label}${schema.unit && html` <span class="muted">${schema.unit}</span>`}${staged && html` <b class="tag">staged</b>`}</label>
    ${field}${provenance && !staged && html`<small>${provenance}</small>`}</div>`;
}

function numberOf(field, schema) {
  const value = field.valueAsNumber;
  return Number.isFinite(value) && (schema.type !== "integer" || Number.isInteger(value)) ? value : null;
}
