// A form made of a JSON schema of parameters: types, bounds, defaults, units and help.

import { FilePicker } from "./file_picker.js";
import { html, useState } from "./vendor/preact-htm.module.js";

const plain = (schema) => schema.anyOf?.find((one) => one.type !== "null" && !one.anyOf) ?? schema.anyOf?.find((one) => one.type !== "null") ?? schema;
const isOptional = (schema) => schema.anyOf?.some((one) => one.type === "null") ?? false;
const isLength = (schema) => plain(schema).anyOf !== undefined || (schema.anyOf?.some((one) => one.pattern) ?? false);

const isPath = (kind) => kind.format === "path" || kind.items?.format === "path";

// What is shown in a field of a value.
export function textOf(value) {
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.join(" ") : String(value);
}

// The value of what was typed: undefined where nothing was, so that the default holds; throws where it is wrong.
export function valueOf(text, schema) {
  const given = text.trim();
  if (given === "") return undefined;
  const kind = plain(schema);
  if (kind.type === "array") return given.split(isPath(kind) ? /\s*\n\s*/ : /[\s,]+/).map((one) => single(one, kind.items));
  if (isLength(schema)) return /^[-+.\deE]+$/.test(given) ? number(given) : given;
  return single(given, kind);
}

function single(text, kind) {
  if (kind.enum) {
    const chosen = kind.enum.find((one) => String(one) === text);
    if (chosen === undefined) throw new Error(`must be one of ${kind.enum.join(", ")}`);
    return chosen;
  }
  if (kind.type === "integer") {
    const value = number(text);
    if (!Number.isInteger(value)) throw new Error("must be a whole number");
    return bounded(value, kind);
  }
  if (kind.type === "number") return bounded(number(text), kind);
  if (kind.type === "boolean") return text === "true";
  return text;
}

function number(text) {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Error("must be a number");
  return value;
}

function bounded(value, { minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  if (value < minimum) throw new Error(`must be at least ${minimum}`);
  if (value > maximum) throw new Error(`must be at most ${maximum}`);
  if (value <= exclusiveMinimum) throw new Error(`must be above ${exclusiveMinimum}`);
  if (value >= exclusiveMaximum) throw new Error(`must be below ${exclusiveMaximum}`);
  return value;
}

// All values that differ from nothing, and what is wrong: [values, {name: problem}].
export function read(schema, typed) {
  const [values, wrong] = [{}, {}];
  for (const [name, one] of Object.entries(schema.properties)) {
    try {
      const value = typed[name] === undefined ? undefined : valueOf(typed[name], one);
      if (value !== undefined) values[name] = value;
      else if (schema.required.includes(name)) wrong[name] = "is needed";
    } catch (error) {
      wrong[name] = error.message;
    }
  }
  return [values, wrong];
}

export function SchemaForm({ schema, project, typed, wrong, onChange }) {
  const [choosing, setChoosing] = useState(null);
  const chosen = (path) => {
    const before = (typed[choosing] ?? "").trim();
    onChange(choosing, before && plain(schema.properties[choosing]).type === "array" ? `${before}\n${path}` : path);
    setChoosing(null);
  };
  return html`<div class="job-form">${Object.entries(schema.properties).map(([name, one]) => {
    const kind = plain(one);
    const text = typed[name] ?? "";
    const choices = kind.enum ?? (kind.type === "boolean" ? ["true", "false"] : null);
    const field = choices
      ? html`<select id=${`field-${name}`} class=${wrong[name] ? "wrong" : ""} value=${text} onChange=${(event) => onChange(name, event.target.value)}>
          ${(!schema.required.includes(name) || isOptional(one)) && html`<option value="">${one.default === undefined || one.default === null ? "–" : `${textOf(one.default)} (default)`}</option>`}
          ${choices.map((choice) => html`<option value=${String(choice)}>${choice}</option>`)}</select>`
      : html`<${kind.type === "array" && isPath(kind) ? "textarea" : "input"} id=${`field-${name}`} class=${wrong[name] ? "wrong" : ""} value=${text} spellcheck=${false} autocomplete="off"
          rows=${2} placeholder=${kind.type === "array" && isPath(kind) ? "one path a line" : textOf(one.default)} onInput=${(event) => onChange(name, event.target.value)} />`;
    return html`<div key=${name}><label for=${`field-${name}`}>${one.title ?? name}${one.unit && html` <span class="muted">${one.unit}</span>`}${schema.required.includes(name) ? " *" : ""}</label>
      ${isPath(kind) ? html`<div class="path-field">${field}<button type="button" id=${`choose-${name}`} aria-label=${`Choose ${one.title ?? name}`} onClick=${() => setChoosing(name)}>…</button></div>` : field}<small>${wrong[name] ? html`<b class="tag">${wrong[name]}</b> ` : ""}${one.description}</small></div>`;
  })}${choosing && html`<${FilePicker} project=${project} onChoose=${chosen} onClose=${() => setChoosing(null)} />`}</div>`;
}
