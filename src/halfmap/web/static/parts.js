// Small pieces that all pages share.

import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.module.js";

// What is asked of the server: [answer or null, error or null, ask again]. An older answer never replaces a newer one.
export function useAnswer(ask, keys) {
  const [state, setState] = useState({ value: null, error: null });
  const turn = useRef(0);
  const again = useCallback(async () => {
    const mine = ++turn.current;
    try {
      const value = await ask();
      if (mine === turn.current) setState({ value, error: null });
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ value: before.value, error }));
    }
  }, keys);
  useEffect(() => {
    again();
    return () => { turn.current++; };
  }, [again]);
  return [state.value, state.error, again];
}

// Keys of a page, left alone while something is typed: {"s": action, "ArrowLeft": action}.
export function useKeys(keys) {
  const held = useRef(keys);
  held.current = keys;
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open].asks")) return;
      const tag = event.target.tagName;
      const typed = tag === "TEXTAREA" || tag === "SELECT" || (tag === "INPUT" && event.target.type !== "checkbox");
      const pressed = tag === "BUTTON" && (event.key === "Enter" || event.key === " ");
      const action = held.current[event.key];
      if (!action || typed || pressed) return;
      event.preventDefault();
      action(event);
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

// The width of an element, followed as it changes: [ref, width].
export function useWidth() {
  const ref = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(ref.current);
    return () => watch.disconnect();
  }, []);
  return [ref, width];
}

export function useLater(action, milliseconds) {
  const timer = useRef(0);
  const held = useRef(action);
  held.current = action;
  useEffect(() => () => clearTimeout(timer.current), []);
  return useCallback((...given) => {
    clearTimeout(timer.current);
    timer.current = setTimeout(() => held.current(...given), milliseconds);
  }, []);
}

export const Problem = ({ error }) => error && html`<p class="banner bad" role="alert">${error.message}</p>`;

export const Banner = ({ kind = "plain", children }) => html`<p class="banner ${kind}" role="status">${children}</p>`;

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

export function Tabs({ tabs, current, onChoose }) {
  return html`<div class="tabs" role="tablist">
    ${tabs.map(([name, label]) => html`<button role="tab" id=${`tab-${name}`} aria-selected=${name === current}
      class=${name === current ? "current" : ""} onClick=${() => onChoose(name)}>${label}</button>`)}
  </div>`;
}

// A question that must be answered before anything is done.
export function Confirm({ title, children, yes, onYes, onNo }) {
  const ref = useRef(null);
  useLayoutEffect(() => ref.current.showModal(), []);
  return html`<dialog class="asks" ref=${ref} onCancel=${onNo}>
    <h2>${title}</h2><div>${children}</div>
    <div class="buttons"><button class="danger" id="confirm-yes" onClick=${onYes}>${yes}</button>
      <button id="confirm-no" onClick=${onNo}>Cancel</button></div>
  </dialog>`;
}

// A bar; without a value, as long as nobody knows how much there is to do.
export function Progress({ progress }) {
  if (!progress) return null;
  const bar = progress.total > 0
    ? html`<progress key="known" max="1" value=${progress.done / progress.total}></progress>`
    : html`<progress key="unknown"></progress>`;
  return html`<div class="progress"><label>${progress.label}${bar}</label></div>`;
}

const TOASTS = new Set();

// A line that goes away by itself; shown by `Toasts`.
export function tell(text, kind = "plain") {
  for (const show of TOASTS) show({ text, kind, key: Date.now() + Math.random() });
}

export function Toasts() {
  const [shown, setShown] = useState([]);
  useEffect(() => {
    const show = (one) => {
      setShown((before) => [...before.slice(-3), one]);
      setTimeout(() => setShown((before) => before.filter((other) => other !== one)), one.kind === "bad" ? 9000 : 4000);
    };
    TOASTS.add(show);
    return () => TOASTS.delete(show);
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map((one) => html`<p key=${one.key} class="banner ${one.kind}">${one.text}</p>`)}</div>`;
}

// Does something and tells what went wrong; true where nothing did.
export async function attempt(action) {
  try {
    await action();
    return true;
  } catch (error) {
    tell(error.message, "bad");
    return false;
  }
}
