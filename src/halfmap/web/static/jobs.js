// The jobs of a project: all of them, one of them, and a new one.

import { api } from "./api.js";
import { clock } from "./format.js";
import { GrowingText } from "./log.js";
import { attempt, Confirm, Empty, Problem, Progress, Tabs, useAnswer } from "./parts.js";
import { read, SchemaForm } from "./schema_form.js";
import { html, useEffect, useState } from "./vendor/preact-htm.module.js";

const AGAIN_MS = 4000;

function useRepeated(ask, keys) {
  const answer = useAnswer(ask, keys);
  const again = answer[2];
  useEffect(() => {
    const timer = setInterval(() => document.hidden || again(), AGAIN_MS);
    return () => clearInterval(timer);
  }, [again]);
  return answer;
}

const JobLinks = ({ project, jobs }) => jobs.map((one, k) => html`${k ? ", " : ""}<a href=${`#/projects/${project}/jobs/${encodeURIComponent(one)}`}>${one}</a>`);

const State = ({ state }) => html`<span class="status ${state}">${state}</span>`;

export function JobsPage({ project, me }) {
  const [answer, error] = useRepeated(() => api.jobs(project), [project]);
  const jobs = answer?.jobs;
  const attempts = answer?.attempts.filter((one) => one.state !== "ended").slice(0, 5) ?? [];
  return html`<section class="page"><h1>Jobs</h1><${Problem} error=${error} />
    ${me?.role !== "viewer" && html`<p class="buttons"><a href=${`#/projects/${project}/new`}>Start a job …</a></p>`}
    ${attempts.map((one) => html`<p class="banner ${one.state === "running" ? "plain" : "bad"}" key=${one.attempt}><b>${one.command}</b> <${State} state=${one.state} /> ${one.said}</p>`)}
    ${jobs && !jobs.length && html`<${Empty}>This project has no jobs yet.<//>`}
    ${jobs?.length > 0 && html`<div class="scroll"><table id="jobs"><thead><tr><th>Job</th><th>Status</th><th>Command</th><th>Made from</th><th>Started</th></tr></thead><tbody>
      ${jobs.map((one) => html`<tr key=${one.id}><td><a href=${`#/projects/${project}/jobs/${encodeURIComponent(one.id)}`}>${one.id}</a></td>
        <td><${State} state=${one.state} /></td><td>${one.command ?? ""}</td><td><${JobLinks} project=${project} jobs=${one.made_from} /></td><td>${clock(one.created)}</td></tr>`)}</tbody></table></div>`}</section>`;
}

export function JobPage({ project, job, me }) {
  const [answer, error, again] = useRepeated(() => api.job(project, job), [project, job]);
  const [tab, setTab] = useState(null);
  const [asking, setAsking] = useState(false);
  const shown = tab ?? (answer?.has_report ? "report" : "log");
  const running = answer?.state === "running";
  const maps = answer?.files.filter((path) => /\.(mrc|map|ccp4)$/.test(path)) ?? [];
  const stop = () => {
    setAsking(false);
    attempt(() => api.stopJob(project, job)).then(again);
  };
  return html`<section class="page"><p><a href=${`#/projects/${project}/jobs`}>‹ Jobs</a></p>
    <h1>${job} ${answer && html`<${State} state=${answer.state} />`}</h1><${Problem} error=${error} />
    ${answer && html`<${Progress} progress=${answer.progress} />
    ${running && me?.role !== "viewer" && html`<p class="buttons"><button id="stop-job" class="danger" onClick=${() => setAsking(true)}>Stop …</button></p>`}
    ${answer.made_from.length > 0 && html`<p class="meta" id="made-from">Made from <${JobLinks} project=${project} jobs=${answer.made_from} /></p>`}
    ${answer.used_by.length > 0 && html`<p class="meta" id="used-by">Used by <${JobLinks} project=${project} jobs=${answer.used_by} /></p>`}
    ${answer.reason && html`<p class="banner bad">${answer.reason}</p>`}
    ${asking && html`<${Confirm} title="Stop this job?" yes="Stop" onYes=${stop} onNo=${() => setAsking(false)}><p>Its state is kept; --continue goes on from it.</p><//>`}
    <${Tabs} tabs=${[["report", "Report"], ["log", "Log"], ["parameters", "Parameters"], ["maps", "Maps"]]} current=${shown} onChoose=${setTab} />
    ${shown === "report" && (answer.has_report ? html`<iframe class="report" id="report" title="Report" sandbox="allow-scripts" src=${api.jobReport(project, job)}></iframe>` : html`<${Empty}>The report is written at the end.<//>`)}
    ${shown === "log" && html`<${GrowingText} read=${(offset) => api.jobLog(project, job, offset)} />`}
    ${shown === "parameters" && html`<pre class="log">${JSON.stringify(answer.parameters ?? {}, null, 2)}</pre>`}
    ${shown === "maps" && html`<ul>${maps.map((path) => html`<li><a href=${`#/projects/${project}/maps/${encodeURIComponent(path)}`}>${path}</a></li>`)}</ul>
      ${!maps.length && html`<${Empty}>This job has no maps.<//>`}`}`}</section>`;
}

export function NewJobPage({ project, command }) {
  return html`<section class="page"><p><a href=${command ? `#/projects/${project}/new` : `#/projects/${project}/jobs`}>‹ ${command ? "Job types" : "Jobs"}</a></p>
    ${command ? html`<${JobForm} key=${command} project=${project} command=${command} />` : html`<${JobTypes} project=${project} />`}</section>`;
}

function JobTypes({ project }) {
  const [answer, error] = useAnswer(() => api.jobTypes(), []);
  const [wanted, setWanted] = useState("");
  const words = wanted.toLowerCase();
  const types = answer?.job_types.filter((one) => `${one.command} ${one.summary}`.toLowerCase().includes(words));
  return html`<h1>Start a job</h1><${Problem} error=${error} />
    <input id="find-type" type="text" placeholder="Find" aria-label="Find" value=${wanted} onInput=${(event) => setWanted(event.target.value)} />
    <div class="cards">${types?.map((one) => html`<a class="card" key=${one.command} href=${`#/projects/${project}/new/${encodeURIComponent(one.command)}`}>
      <h3>${one.command}</h3><p class="muted">${one.summary}</p></a>`)}</div>`;
}

function JobForm({ project, command }) {
  const [schema, error] = useAnswer(() => api.jobSchema(command), [command]);
  const kept = `halfmap-form ${command}`;
  const [typed, setTyped] = useState(() => JSON.parse(sessionStorage.getItem(kept) ?? "{}"));
  const [wrong, setWrong] = useState({});
  const [busy, setBusy] = useState(false);
  const change = (name, text) => {
    const next = { ...typed, [name]: text };
    setTyped(next);
    sessionStorage.setItem(kept, JSON.stringify(next));
    if (wrong[name]) setWrong({ ...wrong, [name]: undefined });
  };
  const start = async (event) => {
    event.preventDefault();
    const [values, problems] = read(schema, typed);
    setWrong(problems);
    if (Object.keys(problems).length) return;
    setBusy(true);
    await attempt(async () => {
      await api.startJob(project, command, values);
      sessionStorage.removeItem(kept);
      location.hash = `#/projects/${project}/jobs`;
    });
    setBusy(false);
  };
  return html`<h1>${command}</h1><${Problem} error=${error} />
    ${schema && html`<form onSubmit=${start}><p class="muted">${schema.summary ?? schema.description}</p>
      <${SchemaForm} schema=${schema} project=${project} typed=${typed} wrong=${wrong} onChange=${change} />
      <p class="buttons"><button class="primary" id="start-job" disabled=${busy}>Start</button></p></form>`}`;
}
