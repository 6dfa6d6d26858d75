// A session: what is set on the left, what was found on the right.

import { api, ApiError, listen } from "./api.js";
import { ClassesTab } from "./classes.js";
import { Controls } from "./controls.js";
import { ExportTab } from "./exports.js";
import { LogTab } from "./log.js";
import { MicrographsTab } from "./micrographs.js";
import { Notices, useNotifications } from "./notices.js";
import { Banner, Empty, Problem, Tabs, tell } from "./parts.js";
import { PlotsTab } from "./plots.js";
import { TracksTab } from "./tracks.js";
import { html, useCallback, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.module.js";

const TABS = [
  ["classes", "Classes"], ["tracks", "Tracks"], ["plots", "Plots"], ["micrographs", "Micrographs"], ["log", "Job output"], ["export", "Export"],
];
const PAGES = {
  classes: ClassesTab, tracks: TracksTab, plots: PlotsTab, micrographs: MicrographsTab, log: LogTab, export: ExportTab,
};
const REST_MS = 250;

// A session with all its cycles, of which only those are asked for that are not known yet: the others stay as they are.
async function whole(id, known) {
  const last = known.current.at(-1)?.number ?? 0;
  const answer = await api.session(id, last);
  if (answer.last_cycle < last) known.current = (await api.session(id)).cycles; // the session was begun anew
  else known.current = [...known.current, ...answer.cycles];
  return { ...answer, cycles: known.current };
}

// A session as the server tells it, read again whenever something happens, at most every so often.
export function useSession(id) {
  const [session, setSession] = useState(null);
  const [error, setError] = useState(null);
  const [online, setOnline] = useState(true);
  const heard = useRef(() => {});
  const reading = useRef(null);
  const again = useRef(false);
  const rest = useRef(0);
  const known = useRef([]);
  const read = useCallback(() => {  // one question at a time, and once more where something happened meanwhile
    again.current = reading.current !== null;
    reading.current ??= (async () => {
      do {
        again.current = false;
        try {
          setSession(await whole(id, known));
          setError(null);
        } catch (failure) {
          setError(failure);
        }
      } while (again.current);
      reading.current = null;
    })();
    return reading.current;
  }, [id]);
  const soon = () => {
    rest.current ||= setTimeout(() => { rest.current = 0; read(); }, REST_MS);
  };
  useEffect(() => {
    read();
    const end = listen(id, {
      connected: setOnline,
      changed: (event) => {
        if (event.type === "progress") {
          setSession((before) => before && { ...before, progress: event.progress });
          return;
        }
        soon();
        heard.current(event);
      },
    });
    return () => { clearTimeout(rest.current); end(); };
  }, [id]);
  return { session, error, online, read, heard };
}

// The classes of a cycle, kept; of a published cycle only the selection changes, which comes with the session.
export function useCycle(id, number, selectedTracks) {
  const kept = useRef(new Map());
  const [cycle, setCycle] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    if (number === null) return undefined;
    let wanted = true;
    const had = kept.current.get(number);
    if (had) setCycle(had);
    else {
      api.cycle(id, number).then((one) => {
        kept.current.set(number, one);
        if (wanted) { setCycle(one); setError(null); }
      }, (failure) => wanted && setError(failure));
    }
    return () => { wanted = false; };
  }, [id, number]);
  const chosen = selectedTracks?.join(",") ?? "";
  const shown = useMemo(() => {
    if (!cycle) return null;
    const tracks = new Set(selectedTracks);
    return { ...cycle, classes: cycle.classes.map((one) => ({ ...one, selected: tracks.has(one.track) })) };
  }, [cycle, chosen]);
  return [shown, error];
}

function Closed({ name }) {
  return html`<section class="page" id="closed"><h1>${name ?? "Session"}</h1><${Banner} kind="warning">This session is closed.
    Its classes and settings are kept: whoever opens the folder again goes on from them.<//>
    <p><a href="#/">All sessions</a></p></section>`;
}

export function SessionPage({ id, tab = "classes", me }) {
  const { session, error, online, read, heard } = useSession(id);
  const viewer = me?.role === "viewer";
  const [panel, setPanel] = useState(false);
  useNotifications(session, heard);
  useEffect(() => {
    document.title = session ? `${session.name} – halfmap live` : "halfmap live";
  }, [session?.name]);
  if (error?.status === 404) return html`<${Closed} name=${session?.name} />`;
  if (!session) {
    return html`<section class="page">${error ? html`<${Problem} error=${error} />
      <p><a href="#/">All sessions</a></p>` : html`<${Empty}>Reading the session …<//>`}</section>`;
  }
  const act = async (action) => {
    try {
      await action();
    } catch (failure) {
      tell(failure instanceof ApiError ? failure.message : String(failure), "bad");
    }
    await read();
  };
  const Page = PAGES[tab] ?? ClassesTab;
  return html`<div class="session ${panel ? "panel-open" : ""}">
    <button class="panel-toggle" id="panel-toggle" aria-expanded=${panel} onClick=${() => setPanel(!panel)}>
      <span class="status ${session.state}">${session.state}</span> ${panel ? "Hide" : "Show"} settings and controls</button>
    <aside class="panel"><${Controls} session=${session} viewer=${viewer} act=${act} /></aside>
    <section class="results">
      <${Notices} session=${session} online=${online} error=${error} />
      <${Tabs} tabs=${TABS} current=${tab} onChoose=${(name) => { location.hash = `#/sessions/${id}/${name}`; }} />
      <${Page} session=${session} viewer=${viewer} act=${act} />
    </section></div>`;
}
