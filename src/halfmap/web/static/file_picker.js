// Choosing a file or folder of the project, or below a root, for a field of a form.

import { api } from "./api.js";
import { bytes } from "./format.js";
import { Empty, Problem, useAnswer } from "./parts.js";
import { html, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.module.js";

const PLACE = "halfmap-place";

// `onChoose` takes a path as forms name them: from the project, or root:path.
export function FilePicker({ project, onChoose, onClose }) {
  const dialog = useRef(null);
  const [at, setAt] = useState(() => JSON.parse(sessionStorage.getItem(PLACE) ?? "null") ?? { root: null, path: "." });
  const [roots] = useAnswer(() => api.roots(), []);
  const [answer, error] = useAnswer(() => (at.root ? api.rootFiles(at.root, at.path) : api.projectFiles(project, at.path)), [at.root, at.path]);
  const [wanted, setWanted] = useState("");
  useLayoutEffect(() => dialog.current.showModal(), []);
  const move = (root, path) => {
    setAt({ root, path });
    setWanted("");
    sessionStorage.setItem(PLACE, JSON.stringify({ root, path }));
  };
  const below = (name) => (at.path === "." ? name : `${at.path}/${name}`);
  const choose = (path) => onChoose(at.root ? `${at.root}:${path}` : path);
  const steps = at.path === "." ? [] : at.path.split("/");
  const words = wanted.toLowerCase();
  const shown = (name) => name.toLowerCase().includes(words);
  return html`<dialog class="asks picker" id="picker" ref=${dialog} onClose=${onClose} onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <h2>Choose a file or folder</h2>
    <div class="chips"><button type="button" class="chip ${at.root ? "" : "current"}" onClick=${() => move(null, ".")}>Project</button>
      ${roots?.roots.map((one) => html`<button type="button" class="chip ${at.root === one.id ? "current" : ""}" onClick=${() => move(one.id, ".")}>${one.name}</button>`)}</div>
    <p class="path"><button type="button" class="link" onClick=${() => move(at.root, ".")}>top</button>
      ${steps.map((step, k) => html` / <button type="button" class="link" onClick=${() => move(at.root, steps.slice(0, k + 1).join("/"))}>${step}</button>`)}</p>
    <input type="text" id="picker-find" placeholder="Find" aria-label="Find" value=${wanted} onInput=${(event) => setWanted(event.target.value)} />
    <${Problem} error=${error} />
    ${answer && !answer.folders.length && !answer.files.length && html`<${Empty}>Nothing is in here.<//>`}
    <ul class="folders">${answer?.folders.filter(shown).map((name) => html`<li key=${name}><button type="button" class="link" onClick=${() => move(at.root, below(name))}>${name}/</button></li>`)}
      ${answer?.files.filter((one) => shown(one.name)).map((one) => html`<li key=${one.name}><button type="button" class="link file" onClick=${() => choose(below(one.name))}>${one.name}</button><span class="muted">${bytes(one.bytes)}</span></li>`)}</ul>
    ${answer?.left_out > 0 && html`<p class="muted">${answer.left_out} more are not shown.</p>`}
    <div class="buttons">${steps.length > 0 && html`<button type="button" id="picker-folder" onClick=${() => choose(at.path)}>Take this folder</button>`}
      <button type="button" onClick=${() => dialog.current.close()}>Cancel</button></div></dialog>`;
}
