// Every address of the server that pages use; and the events that it sends.

const ROOT = new URL("api/v1/", document.baseURI);

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const part = encodeURIComponent;
const nested = (path) => path.split("/").map(part).join("/");

let csrf = "";

async function request(method, path, body) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") {
    headers["Content-Type"] = "application/json";
    headers["X-Halfmap-CSRF"] = csrf;
  }
  let answer;
  try {
    answer = await fetch(new URL(path, ROOT), {
      method, headers, credentials: "same-origin", body: method === "GET" ? undefined : JSON.stringify(body ?? {}),
    });
  } catch {
    throw new ApiError(0, "The server does not answer; it may have been stopped. The page tries again by itself.");
  }
  const text = await answer.text();
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    content = { detail: text };
  }
  if (!answer.ok) throw new ApiError(answer.status, content?.detail ?? `The server answered ${answer.status}.`);
  return content;
}

const get = (path) => request("GET", path);
const post = (path, body) => request("POST", path, body);
const remove = (path) => request("DELETE", path);
const query = (values) => {
  const known = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return known.length ? `?${new URLSearchParams(known)}` : "";
};
export const url = (path) => new URL(path, ROOT).href;

export const api = {
  me: async () => {
    const me = await get("me");
    csrf = me.csrf;
    return me;
  },
  login: (token) => post("login", { token }),
  logout: () => post("logout"),
  links: () => get("links"),
  giveLink: (link) => post("links", link),
  takeBackLink: (link) => remove(`links/${part(link)}`),
  roots: () => get("roots"),
  rootFiles: (root, path) => get(`roots/${part(root)}/files${query({ path })}`),
  projectFiles: (project, path) => get(`projects/${part(project)}/files${query({ path })}`),
  folders: (root, path) => get(`roots/${part(root)}/folders${query({ path })}`),
  sessions: () => get("sessions"),
  open: (root, path) => post("sessions", { root, path }),
  session: (id, after = 0) => get(`sessions/${part(id)}${query({ plots: false, cycles_after: after })}`),
  plots: (id) => get(`sessions/${part(id)}/plots`),
  closeSession: (id) => remove(`sessions/${part(id)}`),
  settingsSchema: (id) => get(`sessions/${part(id)}/settings/schema`),
  stage: (id, values) => post(`sessions/${part(id)}/stage`, { values }),
  start: (id, values) => post(`sessions/${part(id)}/start`, { values }),
  startAutomatic: (id, values) => post(`sessions/${part(id)}/start-automatic`, { values }),
  stop: (id) => post(`sessions/${part(id)}/stop`),
  stopHard: (id) => post(`sessions/${part(id)}/stop-hard`),
  cycle: (id, number) => get(`sessions/${part(id)}/cycles/${number}`),
  select: (id, cycle, classes, selected) => post(`sessions/${part(id)}/select`, { cycle, classes, selected }),
  undo: (id) => post(`sessions/${part(id)}/undo`),
  thresholds: (id, values) => post(`sessions/${part(id)}/thresholds`, { values }),
  setLimits: (id, values) => post(`sessions/${part(id)}/limits`, { values }),
  undoLimits: (id) => post(`sessions/${part(id)}/limits/undo`),
  judge: (id, micrographs) => post(`sessions/${part(id)}/judge`, { micrographs }),
  stageLive2d: (id, settings) => post(`sessions/${part(id)}/stage-live2d`, { settings }),
  export: (id, kind) => post(`sessions/${part(id)}/export`, { kind }),
  log: (id, offset) => get(`sessions/${part(id)}/log${query({ offset })}`),
  micrographs: (id, offset, limit) => get(`sessions/${part(id)}/micrographs${query({ offset, limit })}`),
  micrographImage: (id, name, options) => url(`sessions/${part(id)}/micrographs/${nested(name)}/image.png${query(options)}`),
  picks: (id, name, job) => get(`sessions/${part(id)}/micrographs/${nested(name)}/picks${query({ job })}`),
  manualPick: (id, edits) => post(`sessions/${part(id)}/manual-pick`, edits),
  projects: () => get("projects"),
  jobs: (project) => get(`projects/${part(project)}/jobs`),
  job: (project, job) => get(`projects/${part(project)}/jobs/${nested(job)}`),
  jobLog: (project, job, offset) => get(`projects/${part(project)}/jobs/${nested(job)}/log${query({ offset })}`),
  jobReport: (project, job) => url(`projects/${part(project)}/jobs/${nested(job)}/report`),
  stopJob: (project, job) => post(`projects/${part(project)}/jobs/${nested(job)}/stop`),
  jobTypes: () => get("job-types"),
  jobSchema: (command) => get(`job-types/${part(command)}/schema`),
  startJob: (project, command, values) => post(`projects/${part(project)}/jobs`, { command, values }),
  mesh: (project, path, level) => get(`projects/${part(project)}/maps/${nested(path)}/mesh${query({ level })}`),
  slices: (project, path) => url(`projects/${part(project)}/maps/${nested(path)}/slices.png`),
};

const SETTLED_MS = 1500;

// Calls `changed(event)` for each event of a session, and `connected(yes)` when the line breaks or is there again;
// then all is to be read anew, for events of the time without a line are lost: at once after a break, and, at the
// beginning, once the page has drawn what it read before.
export function listen(id, { changed, connected }) {
  let socket = null;
  let ended = false;
  let broke = false;
  let wait = 500;
  let timer = 0;
  const address = new URL("ws", ROOT);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const open = () => {
    socket = new WebSocket(address);
    socket.onopen = () => {
      wait = 500;
      connected(true);
      timer = setTimeout(() => changed({ type: "reconnected" }), broke ? 0 : SETTLED_MS);
    };
    socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (event.session === id || event.type === "reset" || event.type === "sessions") changed(event);
    };
    socket.onclose = () => {
      if (ended) return;
      broke = true;
      connected(false);
      timer = setTimeout(open, wait);
      wait = Math.min(15000, wait * 2);
    };
  };
  open();
  return () => {
    ended = true;
    clearTimeout(timer);
    socket.close();
  };
}
