// Class averages on one canvas, cut from the one picture that holds all of them.

import { angstrom, decimal, short } from "./format.js";
import { useKeys, useWidth } from "./parts.js";
import { html, useEffect, useRef } from "./vendor/preact-htm.module.js";

const GAP = 8;
const CAPTION = 20;
const ATLASES = new Map();
const MOST_ATLASES = 24;

const last = (value, worst) => (Number.isFinite(value) ? value : worst);
export const SORTS = {
  size: { label: "size", compare: (a, b) => b.particles - a.particles },
  resolution: {
    label: "resolution", compare: (a, b) => last(a.resolution_angstrom, Infinity) - last(b.resolution_angstrom, Infinity),
  },
  score: { label: "score", compare: (a, b) => last(b.score, -Infinity) - last(a.score, -Infinity) },
  number: { label: "number", compare: (a, b) => a.index - b.index },
  track: { label: "track", compare: (a, b) => a.track - b.track },
};

export const sorted = (classes, sort) => [...classes].sort((a, b) => SORTS[sort].compare(a, b) || a.index - b.index);

// A cycle's picture; a few are kept, the oldest goes first.
export function loadAtlas(url) {
  const address = new URL(url, document.baseURI).href;
  const had = ATLASES.get(address);
  ATLASES.delete(address);
  const image = had ?? new Promise((resolve, reject) => {
    const one = new Image();
    one.onload = () => resolve(one);
    one.onerror = () => { ATLASES.delete(address); reject(new Error("The picture of the classes cannot be read.")); };
    one.src = address;
  });
  ATLASES.set(address, image);
  if (ATLASES.size > MOST_ATLASES) ATLASES.delete(ATLASES.keys().next().value);
  return image;
}

export function drawTile(context, atlas, index, x, y, side) {
  const { tile_pixel: pixel, columns, image } = atlas;
  const k = index - 1;
  context.drawImage(image, (k % columns) * pixel, Math.floor(k / columns) * pixel, pixel, pixel, x, y, side, side);
}

export function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "muted", "rule", "accent", "soft", "good", "bad", "card", "warning"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export function sharpCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// `order` may have gaps (null); without `onFocus` it is for looking only.
export function Gallery({ id = "gallery", order, atlas, tile, focus = -1, onFocus, onToggle, onOpen }) {
  const [box, width] = useWidth();
  const canvas = useRef(null);
  const columns = Math.max(1, Math.floor((width + GAP) / (tile + GAP)));
  const side = width ? Math.floor((width + GAP) / columns) - GAP : tile;
  const rows = Math.ceil(order.length / columns);
  const draw = () => width && canvas.current && paint(canvas.current, { order, atlas, side, columns, rows, width, focus });
  useEffect(draw, [order, atlas, side, columns, width, focus]);
  useEffect(() => {
    document.addEventListener("halfmap-theme", draw);
    return () => document.removeEventListener("halfmap-theme", draw);
  });
  const rowed = (by) => () => {
    onFocus((before) => Math.max(0, Math.min(order.length - 1, before + by * columns)));
  };
  useKeys(onFocus ? { ArrowUp: rowed(-1), ArrowDown: rowed(1) } : {});
  useEffect(() => {
    const area = canvas.current?.getBoundingClientRect();
    if (!area || focus <= 0) return;
    const top = area.top + Math.floor(focus / columns) * (side + CAPTION + GAP);
    if (top < 0) scrollBy({ top: top - 20 });
    else if (top + side + CAPTION > innerHeight) scrollBy({ top: top + side + CAPTION + 20 - innerHeight });
  }, [focus]);
  // which class lies under the pointer, and whether its caption does
  const at = (event) => {
    const area = canvas.current.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    const column = Math.floor(x / (side + GAP));
    const row = Math.floor(y / (side + CAPTION + GAP));
    const k = row * columns + column;
    return onFocus && column < columns && order[k] ? { k, caption: y - row * (side + CAPTION + GAP) > side } : null;
  };
  const press = (event) => {
    const under = at(event);
    if (!under) return;
    onFocus(under.k);
    if (under.caption || event.type === "contextmenu") onOpen(under.k);
    else onToggle(order[under.k]);
  };
  const point = (event) => {
    const under = at(event);
    canvas.current.style.cursor = !under ? "default" : under.caption ? "zoom-in" : "pointer";
  };
  return html`<div class="gallery" ref=${box}><canvas ref=${canvas} id=${id} role="img"
    aria-label=${onFocus ? "Class averages: click to select, click the caption to look" : "Class averages"} onClick=${press} onPointerMove=${point}
    onContextMenu=${(event) => { event.preventDefault(); press(event); }}></canvas></div>`;
}

function paint(canvas, { order, atlas, side, columns, rows, width, focus }) {
  const context = sharpCanvas(canvas, width, Math.max(1, rows * (side + CAPTION + GAP)));
  const colour = colours();
  context.imageSmoothingQuality = "high";
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const anySelected = order.some((one) => one?.selected);
  order.forEach((one, k) => {
    const x = (k % columns) * (side + GAP);
    const y = Math.floor(k / columns) * (side + CAPTION + GAP);
    context.globalAlpha = anySelected && !one?.selected ? 0.45 : 1;
    context.fillStyle = colour.soft;
    context.fillRect(x, y, side, side);
    if (!one) return;
    if (atlas) drawTile(context, atlas, one.index, x, y, side);
    context.globalAlpha = 1;
    if (one.selected) frame(context, colour.good, x, y, side, 3);
    if (k === focus) frame(context, colour.accent, x + 4, y + 4, side - 8, 2);
    if (one.selected) tick(context, colour.good, x + side - 12, y + 12);
    caption(context, colour, one, x, y + side + CAPTION / 2 + 1, side);
  });
}

function caption(context, colour, one, x, y, side) {
  context.fillStyle = colour.ink;
  context.textAlign = "left";
  context.fillText(`⤢ ${short(one.particles)}`, x + 1, y);
  if (side < 84) return;
  context.fillStyle = colour.muted;
  context.textAlign = "right";
  const score = Number.isFinite(one.score) && side > 150 ? `${decimal(one.score, 2)} · ` : "";
  context.fillText(`${score}${Number.isFinite(one.resolution_angstrom) ? angstrom(one.resolution_angstrom) : `#${one.index}`}`, x + side - 1, y);
}

function frame(context, colour, x, y, side, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.strokeRect(x + width / 2, y + width / 2, side - width, side - width);
}

function tick(context, colour, x, y) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, 9, 0, 2 * Math.PI);
  context.fill();
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(x - 4, y);
  context.lineTo(x - 1, y + 3);
  context.lineTo(x + 4, y - 3);
  context.stroke();
}
