// Figures and texts for people. Texts of devices may hold anything: they go into the page as text, and what steers a
// terminal, turns the direction of a line or cannot be seen is shown as a sign of its own.

// eslint-disable-next-line no-control-regex
const STEERS = /[\u0000-\u001f\u007f]/g;
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

export function shown(text) {
  return String(text ?? "")
    .replace(STEERS, (sign) => (sign === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + sign.charCodeAt(0))))
    .replace(UNSEEN, "\ufffd");
}

// A log, line by line: structured (JSON) or plain, either as a device has sent it.
export function readable(text) {
  return text
    .split("\n")
    .map((line) => {
      try {
        const { timestamp = "", level = "", event, error_detail: error } = JSON.parse(line);
        if (event === undefined) return line;
        return [timestamp, level.toUpperCase(), typeof event === "string" ? event : JSON.stringify(event), error ? JSON.stringify(error) : ""].filter(Boolean).join("  ");
      } catch {
        return line;
      }
    })
    .map(shown)
    .join("\n");
}

const STEPS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
];

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  for (const [size, unit] of STEPS) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

export function since(at) {
  return at ? duration(Date.now() / 1000 - at) : "";
}

// In the time zone that was chosen in Airflow's UI.
export function time(at) {
  if (!at) return "";
  const when = new Date(at * 1000);
  const parts = { dateStyle: "short", timeStyle: "medium" };
  try {
    const zone = (localStorage.getItem("timezone") ?? "").replaceAll('"', "");
    return when.toLocaleString("sv-SE", zone && zone !== "local" ? { ...parts, timeZone: zone } : parts);
  } catch {
    return when.toLocaleString("sv-SE", parts);
  }
}

export function bytes(count) {
  if (!Number.isFinite(count)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let left = count;
  let unit = 0;
  while (left >= 1000 && unit < units.length - 1) {
    left /= 1000;
    unit += 1;
  }
  return `${left >= 100 || unit === 0 ? Math.round(left) : left.toFixed(1)} ${units[unit]}`;
}

export function percent(part, whole = 1) {
  return Number.isFinite(part) && whole > 0 ? `${Math.round((100 * part) / whole)} %` : "";
}

// Of a worker, or those that a job asks for.
export function labels(of) {
  return Object.entries(of.labels ?? {}).map(([name, value]) => `${name}=${value}`);
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
