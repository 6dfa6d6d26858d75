// A micrograph with picks on a canvas: moved by dragging, nearer by the wheel or two fingers.

import { sharpCanvas } from "./gallery.js";
import { useWidth } from "./parts.js";
import { colourOf } from "./picks.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-htm.module.js";

const CLICK_PIXEL = 5;
const LEAST_TOUCH_PIXEL = 8;

export const fitted = (size, box) => {
  const scale = Math.min(box.width / size.width, box.height / size.height);
  return { scale, x: (box.width - size.width * scale) / 2, y: (box.height - size.height * scale) / 2 };
};

export function MicrographView({ image, size, picks, radius, colour, brush, turn, onAdd, onRemove }) {
  const [box, width] = useWidth();
  const height = Math.max(320, Math.min(innerHeight - 190, width));
  const canvas = useRef(null);
  const [view, setView] = useState(null);
  const held = useRef({ pointers: new Map(), moved: 0, erased: [] });
  const [erased, setErased] = useState([]);
  const [at, setAt] = useState(null);
  useLayoutEffect(() => {
    if (width && size) setView(fitted(size, { width, height }));
  }, [width, size?.width, size?.height, turn.fit]);
  useEffect(() => {
    if (turn.zoom && view) setView(zoomed(view, turn.by, width / 2, height / 2));
  }, [turn.zoom]);
  useLayoutEffect(() => {
    if (view && width && size) paint(canvas.current, { image, size, picks, radius, colour, view, width, height, erased, brush: brush && at });
  }, [image, size?.width, size?.height, picks, radius, colour, view, width, erased, brush, at]);
  useEffect(() => {
    const turned = (event) => {
      event.preventDefault();
      const [x, y] = place(event);
      setView((before) => before && zoomed(before, Math.exp(-event.deltaY / 400), x, y));
    };
    canvas.current.addEventListener("wheel", turned, { passive: false });
    return () => canvas.current?.removeEventListener("wheel", turned);
  }, []);
  const place = (event) => {
    const area = canvas.current.getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  };
  const inside = ([x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];
  const near = ([x, y], reach) => picks.filter((one) => Math.hypot(one.x - x, one.y - y) <= reach);
  const down = (event) => {
    canvas.current.setPointerCapture(event.pointerId);
    held.current.pointers.set(event.pointerId, place(event));
    held.current.moved = held.current.pointers.size > 1 ? Infinity : 0;
    held.current.erased = [];
    if (brush) erase(place(event));
  };
  const erase = (where) => {
    const [x, y] = inside(where);
    const found = near([x, y], 1.5 * radius).filter((one) => !held.current.erased.includes(one));
    if (found.length) {
      held.current.erased = [...held.current.erased, ...found];
      setErased(held.current.erased);
    }
  };
  const move = (event) => {
    const now = place(event);
    setAt(brush ? now : null);
    const before = held.current.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...held.current.pointers].find(([id]) => id !== event.pointerId)?.[1];
    held.current.pointers.set(event.pointerId, now);
    held.current.moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (other) {
      const factor = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
      setView((old) => zoomed(old, factor, other[0], other[1]));
    } else if (brush) erase(now);
    else setView((old) => ({ ...old, x: old.x + now[0] - before[0], y: old.y + now[1] - before[1] }));
  };
  const up = (event) => {
    if (!held.current.pointers.delete(event.pointerId) || !size) return;
    if (brush) {
      if (held.current.erased.length) onRemove(held.current.erased);
      held.current.erased = [];
      setErased([]);
    } else if (held.current.moved < CLICK_PIXEL && event.type === "pointerup") {
      const [x, y] = inside(place(event));
      const under = near([x, y], Math.max(radius, LEAST_TOUCH_PIXEL / view.scale));
      under.sort((a, b) => Math.hypot(a.x - x, a.y - y) - Math.hypot(b.x - x, b.y - y));
      if (under.length) onRemove([under[0]]);
      else if (x >= 0 && y >= 0 && x <= size.width - 1 && y <= size.height - 1) onAdd(Math.round(x * 10) / 10, Math.round(y * 10) / 10);
    }
  };
  return html`<div class="micrograph" ref=${box}><canvas ref=${canvas} id="micrograph" role="img" aria-label="Micrograph with picks"
    data-view=${view && JSON.stringify(view)} onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onPointerLeave=${() => setAt(null)}></canvas></div>`;
}

function zoomed(view, factor, x, y) {
  const scale = Math.max(0.01, Math.min(20, view.scale * factor));
  const by = scale / view.scale;
  return { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
}

function paint(canvas, { image, size, picks, radius, colour, view, width, height, erased, brush }) {
  const context = sharpCanvas(canvas, width, height);
  context.fillStyle = "#181a20";
  context.fillRect(0, 0, width, height);
  if (image) {
    context.imageSmoothingEnabled = view.scale * (size.width / image.width) < 3;
    // the centre of the first pixel is (0, 0), so the picture begins half a pixel before
    context.drawImage(image, view.x - view.scale / 2, view.y - view.scale / 2, size.width * view.scale, size.height * view.scale);
  }
  const gone = new Set(erased);
  context.lineWidth = 2;
  for (const one of picks) {
    context.strokeStyle = gone.has(one) ? "rgb(255 60 60 / 35%)" : colourOf(one.byHand ? NaN : one[colour.label], colour.low, colour.high);
    context.beginPath();
    context.arc(view.x + one.x * view.scale, view.y + one.y * view.scale, Math.max(3, radius * view.scale), 0, 2 * Math.PI);
    context.stroke();
  }
  if (brush) {
    context.strokeStyle = "#fff";
    context.setLineDash([4, 4]);
    context.beginPath();
    context.arc(brush[0], brush[1], 1.5 * radius * view.scale, 0, 2 * Math.PI);
    context.stroke();
  }
}
