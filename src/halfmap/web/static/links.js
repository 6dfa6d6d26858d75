// Links for others: made with a role and an end, shown once, taken back.

import { api } from "./api.js";
import { clock } from "./format.js";
import { attempt, Banner, Empty, Problem, useAnswer } from "./parts.js";
import { html, useState } from "./vendor/preact-htm.module.js";

const ROLES = { viewer: "look only", operator: "start, stop and select", admin: "everything" };
const HOURS = [[0, "until it is taken back"], [8, "for 8 hours"], [24, "for a day"], [168, "for a week"]];

export function LinksPage({ me }) {
  const [answer, error, again] = useAnswer(() => api.links(), []);
  const [asked, setAsked] = useState({ name: "", role: "viewer", hours: 0 });
  const [made, setMade] = useState(null);
  const change = (values) => setAsked({ ...asked, ...values });
  if (me?.role !== "admin") return html`<section class="page"><${Empty}>Only administrators give links.<//></section>`;
  const give = (event) => {
    event.preventDefault();
    attempt(async () => {
      setMade(await api.giveLink({ ...asked, name: asked.name.trim() || "link" }));
      await again();
    });
  };
  const takeBack = (id) => attempt(async () => {
    await api.takeBackLink(id);
    if (made?.id === id) setMade(null);
    await again();
  });
  return html`<section class="page"><h1>Links</h1><${Problem} error=${error} />
    <form class="toolbar card" onSubmit=${give}>
      <label>For <input id="link-name" type="text" maxlength="80" placeholder="the screen on the wall" value=${asked.name} onInput=${(event) => change({ name: event.target.value })} /></label>
      <label>May <select id="link-role" value=${asked.role} onChange=${(event) => change({ role: event.target.value })}>${Object.entries(ROLES).map(([role, meaning]) => html`<option value=${role}>${meaning}</option>`)}</select></label>
      <label>Holds <select id="link-hours" value=${asked.hours} onChange=${(event) => change({ hours: Number(event.target.value) })}>${HOURS.map(([hours, meaning]) => html`<option value=${hours}>${meaning}</option>`)}</select></label>
      <button class="primary" id="give-link">Make a link</button></form>
    ${made && html`<${Banner} kind="good">This address is shown only now: <code id="link-url">${made.url}</code><//>`}
    ${answer && !answer.links.length && html`<${Empty}>No links are given.<//>`}
    ${answer?.links.length > 0 && html`<div class="scroll"><table id="links"><thead><tr><th>For</th><th>May</th><th>Ends</th><th></th></tr></thead><tbody>
      ${answer.links.map((one) => html`<tr key=${one.id}><td>${one.name}</td><td>${ROLES[one.role] ?? one.role}</td>
        <td>${one.expires ? clock(new Date(1000 * one.expires).toISOString()) : "–"}</td>
        <td><button class="small danger" onClick=${() => takeBack(one.id)}>Take back</button></td></tr>`)}</tbody></table></div>`}
    <p class="muted">Taking a link back logs out whoever came by it.</p></section>`;
}
