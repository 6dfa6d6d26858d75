// Sessions that are open, and folders in which one can be opened.

import { api } from "./api.js";
import { clock, count } from "./format.js";
import { Empty, Problem, useAnswer } from "./parts.js";
import { html, useEffect, useState } from "./vendor/preact-htm.module.js";

export function Chooser({ me }) {
  const [answer, error, again] = useAnswer(() => api.sessions(), []);
  useEffect(() => {
    const timer = setInterval(again, 10000);
    return () => clearInterval(timer);
  }, [again]);
  const sessions = answer?.sessions;
  return html`<section class="page"><h1>Sessions</h1><${Problem} error=${error} />
    ${sessions && !sessions.length && html`<${Empty}>No session is open yet. Choose the folder of one below.<//>`}
    <div class="cards">${sessions?.map((one) => html`<a class="card session-card" href=${`#/sessions/${one.id}`}>
      <h2>${one.name}</h2>
      <p><span class="status ${one.state}">${one.state}</span> ${one.kind}${one.microscope ? ` on ${one.microscope}` : ""}</p>
      <p class="muted">${one.reason ? one.reason : html`${count(one.particles)} particles · ${count(one.cycles)} cycles${one.last_image ? ` · last image ${clock(one.last_image)}` : ""}`}</p>
    </a>`)}</div>
    ${me?.role !== "viewer" && html`<${Folders} />`}</section>`;
}

function Folders() {
  const [roots, error] = useAnswer(() => api.roots(), []);
  const [place, setPlace] = useState(null);
  const list = roots?.roots ?? [];
  const at = place ?? (list.length === 1 ? { root: list[0].id, path: "" } : null);
  return html`<h2>Open a session</h2><${Problem} error=${error} />
    ${list.length > 1 && html`<div class="chips">${list.map((one) => html`<button class="chip ${at?.root === one.id ? "current" : ""}"
      onClick=${() => setPlace({ root: one.id, path: "" })}>${one.name}</button>`)}</div>`}
    ${at && html`<${Folder} key=${`${at.root}:${at.path}`} ...${at} onMove=${(path) => setPlace({ root: at.root, path })} />`}`;
}

function Folder({ root, path, onMove }) {
  const [answer, error] = useAnswer(() => api.folders(root, path), [root, path]);
  const [busy, setBusy] = useState(false);
  const [refused, setRefused] = useState(null);
  const open = async (where) => {
    setBusy(true);
    try {
      location.hash = `#/sessions/${(await api.open(root, where)).id}`;
    } catch (reason) {
      setRefused(reason);
    }
    setBusy(false);
  };
  const steps = path ? path.split("/") : [];
  return html`<div class="card folder">
    <p class="path"><button class="link" onClick=${() => onMove("")}>top</button>
      ${steps.map((step, k) => html` / <button class="link" onClick=${() => onMove(steps.slice(0, k + 1).join("/"))}>${step}</button>`)}</p>
    <${Problem} error=${refused ?? error} />
    ${answer?.kind && html`<p><button class="primary" disabled=${busy} onClick=${() => open(path)}>Open this folder (${answer.kind})</button></p>`}
    ${answer && !answer.folders.length && html`<${Empty}>No folders in here.<//>`}
    <ul class="folders">${answer?.folders.map((one) => html`<li>
      <button class="link" onClick=${() => onMove(path ? `${path}/${one.name}` : one.name)}>${one.name}</button>
      ${one.kind && html`<button class="primary small" disabled=${busy} onClick=${() => open(path ? `${path}/${one.name}` : one.name)}>Open (${one.kind})</button>`}
    </li>`)}</ul></div>`;
}
