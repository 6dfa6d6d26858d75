// The job's output: its last thousand lines, and what comes after.

import { api } from "./api.js";
import { Empty, Problem } from "./parts.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.module.js";

const MOST_CHARACTERS = 2e6;

// Text that grows: `read(offset)` → {text, next}; read again as `turn` changes and every few seconds.
export function GrowingText({ read, turn, seconds = 3 }) {
  const [text, setText] = useState("");
  const [error, setError] = useState(null);
  const [follow, setFollow] = useState(true);
  const offset = useRef(-1);
  const busy = useRef(false);
  const ended = useRef(false);
  const box = useRef(null);
  const more = async () => {
    if (busy.current) return;
    busy.current = true;
    try {
      const answer = await read(offset.current);
      if (!ended.current) {
        if (answer.text) setText((before) => (before + answer.text).slice(-MOST_CHARACTERS));
        offset.current = answer.next;
        setError(null);
      }
    } catch (failure) {
      if (!ended.current) setError(failure);
    }
    busy.current = false;
  };
  useEffect(() => { more(); }, [turn]);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || more(), 1000 * seconds);
    return () => { ended.current = true; clearInterval(timer); };
  }, []);
  useLayoutEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [text, follow]);
  return html`<${Problem} error=${error} />
    <label class="follow"><input type="checkbox" checked=${follow} onChange=${(event) => setFollow(event.target.checked)} /> follow</label>
    ${text ? html`<pre class="log" id="log" tabindex="0" ref=${box}>${text}</pre>` : html`<${Empty}>Nothing has been written yet.<//>`}`;
}

export function LogTab({ session }) {
  return html`<${GrowingText} read=${(offset) => api.log(session.id, offset)} turn=${session.seq} />`;
}
