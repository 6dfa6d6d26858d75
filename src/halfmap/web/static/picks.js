// Picks that are edited by eye: what was added, removed, and how to take it back. No page in it.

export const NEAR_PIXEL = 1e-3;

export const noEdits = () => ({ added: {}, removed: {}, thresholds: {}, threshold: null });

// Edits with a history; every change is a new value, and undo returns the one before.
export class Edits {
  constructor(now = noEdits(), before = []) {
    this.now = now;
    this.before = before;
  }

  get isEmpty() {
    const { added, removed, thresholds, threshold } = this.now;
    return threshold === null && [added, removed, thresholds].every((one) => !Object.keys(one).length);
  }

  with(change) {
    return new Edits({ ...this.now, ...change }, [...this.before.slice(-199), this.now]);
  }

  undo() {
    return this.before.length ? new Edits(this.before.at(-1), this.before.slice(0, -1)) : this;
  }

  add(name, x, y) {
    return this.with({ added: { ...this.now.added, [name]: [...(this.now.added[name] ?? []), [x, y]] } });
  }

  // Takes picks away: those added by hand are forgotten, those of the file are named as removed.
  remove(name, picks) {
    const gone = new Set(picks.filter((one) => one.byHand).map((one) => `${one.x} ${one.y}`));
    const added = (this.now.added[name] ?? []).filter(([x, y]) => !gone.has(`${x} ${y}`));
    const removed = [...(this.now.removed[name] ?? []), ...picks.filter((one) => !one.byHand).map((one) => [one.x, one.y])];
    return this.with({ added: { ...this.now.added, [name]: added }, removed: { ...this.now.removed, [name]: removed } });
  }

  limit(name, value) {
    return name === null ? this.with({ threshold: value, thresholds: {} }) : this.with({ thresholds: { ...this.now.thresholds, [name]: value } });
  }

  thresholdOf(name) {
    return this.now.thresholds[name] ?? this.now.threshold;
  }

  // What is shown of a micrograph: the file's picks above the threshold, less the removed, with the added.
  shown(name, picks) {
    const least = this.thresholdOf(name);
    const removed = this.now.removed[name] ?? [];
    const isRemoved = (one) => removed.some(([x, y]) => Math.abs(x - one.x) < NEAR_PIXEL && Math.abs(y - one.y) < NEAR_PIXEL);
    const kept = picks.filter((one) => (least === null || one.figure_of_merit >= least) && !isRemoved(one));
    return [...kept, ...(this.now.added[name] ?? []).map(([x, y]) => ({ x, y, byHand: true }))];
  }

  // What is saved: of removed picks only those that the threshold keeps, for the others are gone anyway.
  toSave(picksOf) {
    const removed = Object.fromEntries(Object.entries(this.now.removed).map(([name, places]) => {
      const least = this.thresholdOf(name);
      const picks = picksOf(name);
      const isKept = ([x, y]) => least === null || !picks || picks.some((one) => one.x === x && one.y === y && one.figure_of_merit >= least);
      return [name, places.filter(isKept)];
    }));
    return { ...this.now, removed };
  }
}

// From blue (at the low value) over white to red (at the high one).
export function colourOf(value, low, high) {
  if (!Number.isFinite(value)) return "#f5c542";
  const t = Math.max(0, Math.min(1, high === low ? 0.5 : (value - low) / (high - low)));
  const mix = (from, to, share) => Math.round(from + (to - from) * share);
  const [red, green, blue] = t < 0.5
    ? [mix(50, 240, 2 * t), mix(120, 240, 2 * t), 255]
    : [255, mix(240, 70, 2 * t - 1), mix(240, 60, 2 * t - 1)];
  return `rgb(${red} ${green} ${blue})`;
}
