// Lines above the results, and notifications of the browser.

import { bytes, count, duration } from "./format.js";
import { Banner, tell } from "./parts.js";
import { html, useEffect } from "./vendor/preact-htm.module.js";

const LITTLE_BYTES = 20e9;
const MUCH_LAG_SECONDS = 1800;

export function Notices({ session, online, error }) {
  const { source } = session;
  return html`<div class="notices">
    ${!online && html`<${Banner} kind="warning">The line to the server is down; trying again. What you see may be old.<//>`}
    ${online && error && html`<${Banner} kind="bad">${error.message}<//>`}
    ${source.disk_free_bytes < LITTLE_BYTES && html`<${Banner} kind="bad">Only ${bytes(source.disk_free_bytes)} are free where this session keeps its work.<//>`}
    ${source.lag_s > MUCH_LAG_SECONDS && html`<${Banner} kind="warning">Classes lag ${duration(source.lag_s)} behind the microscope: particles come faster than they are classified.<//>`}
    ${source.notices.slice(-3).map((text) => html`<${Banner} kind="warning">${text}<//>`)}
    ${source.quarantine.length > 0 && html`<details class="banner plain"><summary>${count(source.quarantine.length)} set aside</summary>
      <ul>${source.quarantine.slice(0, 200).map((one) => html`<li><b>${one.name}</b>: ${one.reason}</li>`)}</ul></details>`}</div>`;
}

// Tells of failures, targets and missing images, outside of the page where the browser may.
export function useNotifications(session, heard) {
  useEffect(() => {
    heard.current = (event) => {
      if (!event.text || event.type === "notice") return;
      tell(event.text, event.type === "failure" ? "bad" : "plain");
      if ("Notification" in window && Notification.permission === "granted" && document.hidden) {
        new Notification(session?.name ?? "halfmap live", { body: event.text, tag: event.type });
      }
    };
  }, [session?.name]);
}

export function NotificationButton() {
  if (!("Notification" in window) || Notification.permission !== "default") return null;
  return html`<button class="chip" onClick=${() => Notification.requestPermission()}>Tell me in this browser</button>`;
}
