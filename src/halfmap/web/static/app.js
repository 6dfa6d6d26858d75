// The frame of all pages: which page an address means, colours, help.

import { api } from "./api.js";
import { Chooser } from "./chooser.js";
import { Help } from "./help.js";
import { JobPage, JobsPage, NewJobPage } from "./jobs.js";
import { LinksPage } from "./links.js";
import { MapPage } from "./map.js";
import { MicrographPage } from "./micrograph.js";
import { Problem, Toasts, useAnswer, useKeys } from "./parts.js";
import { SessionPage } from "./session.js";
import { html, render, useEffect, useState } from "./vendor/preact-htm.module.js";

const PAGES = [
  [/^\/sessions\/([^/]+)\/micrographs\/(.+)$/, MicrographPage, ["id", "name"]],
  [/^\/sessions\/([^/]+)(?:\/([^/]+))?$/, SessionPage, ["id", "tab"]],
  [/^\/projects\/([^/]+)\/jobs$/, JobsPage, ["project"]],
  [/^\/projects\/([^/]+)\/jobs\/(.+)$/, JobPage, ["project", "job"]],
  [/^\/projects\/([^/]+)\/new(?:\/([^/]+))?$/, NewJobPage, ["project", "command"]],
  [/^\/projects\/([^/]+)\/maps\/(.+)$/, MapPage, ["project", "path"]],
  [/^\/links$/, LinksPage, []],
];

function pageOf(address) {
  const path = address.replace(/^#/, "") || "/";
  for (const [pattern, page, names] of PAGES) {
    const found = path.match(pattern);
    if (found) return [page, Object.fromEntries(names.map((name, k) => [name, found[k + 1] && decodeURIComponent(found[k + 1])]))];
  }
  return [Chooser, {}];
}

const THEMES = ["system", "light", "dark"];

function useTheme() {
  const [theme, setTheme] = useState(localStorage.getItem("halfmap-theme") ?? "system");
  useEffect(() => {
    localStorage.setItem("halfmap-theme", theme);
    const system = matchMedia("(prefers-color-scheme: dark)");
    const show = () => {
      document.documentElement.dataset.theme = theme === "system" ? (system.matches ? "dark" : "light") : theme;
      document.dispatchEvent(new Event("halfmap-theme"));
    };
    show();
    system.addEventListener("change", show);
    return () => system.removeEventListener("change", show);
  }, [theme]);
  return [theme, () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length])];
}

function App() {
  const [address, setAddress] = useState(location.hash);
  const [theme, nextTheme] = useTheme();
  const [help, setHelp] = useState(false);
  const [me, refused, again] = useAnswer(() => api.me(), []);
  useEffect(() => {
    const move = () => setAddress(location.hash);
    addEventListener("hashchange", move);
    move();  // it may have changed before anybody listened
    return () => removeEventListener("hashchange", move);
  }, []);
  useKeys({ "?": () => setHelp(!help) });
  if (refused?.status === 401) return html`<${Login} onDone=${again} />`;
  const [page, given] = pageOf(address);
  return html`<header class="top">
      <a class="mark" href="#/"><img src="static/mark.svg" alt="" width="20" height="20" /> halfmap live</a>
      <nav><a href="#/">Sessions</a>${me?.project && html`<a href=${`#/projects/${encodeURIComponent(me.project)}/jobs`}>Jobs</a>`}
        ${me?.role === "admin" && html`<a href="#/links">Links</a>`}
        ${me?.role === "viewer" && html`<span class="status plain">read only</span>`}
        <button id="theme" title="Colours: ${theme}" aria-label="Colours: ${theme}" onClick=${nextTheme}>◐</button>
        <button id="help" title="Keys and help" aria-label="Keys and help" onClick=${() => setHelp(true)}>?</button></nav>
    </header>
    <main>${me === null ? html`<${Problem} error=${refused} />` : html`<${page} key=${page.name + JSON.stringify([given.id, given.project, given.job, given.command])} ...${given} me=${me} />`}</main>
    <${Toasts} />
    ${help && html`<${Help} onClose=${() => setHelp(false)} />`}`;
}

function Login({ onDone }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState(null);
  const enter = async (event) => {
    event.preventDefault();
    try {
      await api.login(token.trim());
      onDone();
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<main class="login"><form class="card" onSubmit=${enter}><h1>halfmap live</h1>
    <p class="muted">Open the address that <code>halfmap live</code> printed, or enter the token at its end.</p>
    <input id="token" type="password" autocomplete="current-password" aria-label="Token" value=${token} onInput=${(event) => setToken(event.target.value)} />
    <button class="primary" id="login">Log in</button><${Problem} error=${error} /></form></main>`;
}

const place = document.getElementById("app");
place.replaceChildren();
render(html`<${App} />`, place);
