// Class averages in an order in which alike ones are neighbours, whichever way they are turned.

import { drawTile } from "./gallery.js";

const SIDE = 32;
const RINGS = 14;

// Of each ring about the centre the mean and the deviation, which turning an average leaves as they are.
function rings(pixels) {
  const [sum, square, n] = [0, 0, 0].map(() => new Float64Array(RINGS));
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const ring = Math.round(Math.hypot(x - SIDE / 2 + 0.5, y - SIDE / 2 + 0.5) * (RINGS / (SIDE / 2)) - 0.5);
      if (ring >= RINGS) continue;
      const value = pixels[4 * (y * SIDE + x)];
      sum[ring] += value;
      square[ring] += value * value;
      n[ring]++;
    }
  }
  const mean = Array.from(sum, (value, k) => value / Math.max(1, n[k]));
  return [...mean, ...mean.map((value, k) => Math.sqrt(Math.max(0, square[k] / Math.max(1, n[k]) - value * value)))];
}

const distance = (a, b) => a.reduce((sum, value, k) => sum + (value - b[k]) ** 2, 0);

// From the largest class on, each time the one that is most like the last.
export function byLikeness(classes, atlas) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  let left = classes.map((one) => {
    drawTile(context, atlas, one.index, 0, 0, SIDE);
    return { one, shape: rings(context.getImageData(0, 0, SIDE, SIDE).data) };
  });
  let last = left.reduce((best, next) => (next.one.particles > (best?.one.particles ?? -1) ? next : best), null);
  const order = [];
  while (last) {
    order.push(last.one);
    left = left.filter((next) => next !== last);
    const { shape } = last;
    let nearest = Infinity;
    last = null;
    for (const next of left) {
      const far = distance(next.shape, shape);
      if (far < nearest) [nearest, last] = [far, next];
    }
  }
  return order;
}
