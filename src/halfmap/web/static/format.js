// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export function short(value) {
  if (value < 10000) return whole.format(value);
  return value < 999500 ? `${+(value / 1000).toFixed(value < 99950 ? 1 : 0)} k` : `${+(value / 1e6).toFixed(1)} M`;
}

export const decimal = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

export const angstrom = (value, digits = 1) => (Number.isFinite(value) ? `${value.toFixed(digits)} Å` : "–");

export const percent = (value) => (Number.isFinite(value) ? `${(100 * value).toFixed(0)} %` : "–");

export function clock(iso) {
  if (!iso) return "–";
  const time = new Date(iso);
  const today = new Date().toDateString() === time.toDateString();
  const hours = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? hours : `${time.toLocaleDateString([], { day: "numeric", month: "short" })} ${hours}`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  const power = value < 1 ? 0 : Math.min(5, Math.floor(Math.log10(value) / 3));
  return `${(value / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}
