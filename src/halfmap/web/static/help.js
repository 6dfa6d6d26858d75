// What the keys do.

import { html, useLayoutEffect, useRef } from "./vendor/preact-htm.module.js";

const KEYS = [
  ["Everywhere", [["?", "this help"], ["Esc", "close what is open"]]],
  ["Classes", [
    ["← → ↑ ↓", "move between classes"], ["Space", "select or deselect the class"], ["S / R", "select / reject it"],
    ["Enter", "look at it in full size"], ["U", "undo the last change of the selection"],
    ["[ and ]", "an older, a newer cycle"], ["L", "the newest cycle, and follow it"],
  ]],
  ["Full size", [["← →", "the class before, after"], ["S / R", "select / reject"], ["Esc", "back"]]],
  ["Micrographs", [
    ["← →", "the micrograph before, after"], ["A / X", "accept / reject the micrograph"], ["B", "brush that erases, on and off"],
    ["U", "undo"], ["+ − 0", "nearer, farther, all of it"], ["Click", "add a pick; on a pick: remove it"], ["Drag", "move the picture; with the brush: erase"],
  ]],
  ["Map", [["← → ↑ ↓", "turn"], ["+ −", "nearer, farther"]]],
];

export function Help({ onClose }) {
  const ref = useRef(null);
  useLayoutEffect(() => ref.current.showModal(), []);
  return html`<dialog class="help asks" ref=${ref} onClose=${onClose} onClick=${(event) => event.target === ref.current && ref.current.close()}>
    <h2>Keys</h2>
    <div class="help-columns">${KEYS.map(([title, rows]) => html`<section><h3>${title}</h3><dl>
      ${rows.map(([key, meaning]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${meaning}</dd></div>`)}</dl></section>`)}</div>
    <div class="buttons"><button onClick=${() => ref.current.close()}>Close</button>
      <a href="docs" target="_blank" rel="noopener">REST interface</a></div>
  </dialog>`;
}
