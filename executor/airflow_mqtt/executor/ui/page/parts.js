// What all pages are made of: text, badges, tables with sort and paging, filters whose choice is in the address.

import { Link, h, useEffect, useRef, useSearchParams, useState } from "./h.js";
import { count, shown, time } from "./format.js";

const COLOURS = {
  idle: "gray",
  running: "green",
  starting: "blue",
  queued: "gray",
  dispatched: "blue",
  accepted: "blue",
  succeeded: "green",
  failed: "red",
  lost: "red",
  cancelling: "orange",
  cancelled: "orange",
  offline: "red",
  unknown: "red",
  terminating: "orange",
};

export function Badge({ state, title }) {
  const colour = COLOURS[state] ?? (String(state).includes("maintenance") ? "yellow" : "orange");
  return h("span", { className: `mqtt-badge mqtt-${colour}`, title: title ? shown(title) : undefined }, shown(state));
}

// One line, cut where there is no room; all of it, within reason, when the mouse rests there.
export function Text({ value, wide }) {
  const text = shown(value);
  if (!text) return null;
  const className = wide ? "mqtt-text mqtt-wide" : "mqtt-text";
  return h("span", { className, title: text.slice(0, 2000) }, text.slice(0, 10000));
}

export function When({ at }) {
  return h("span", { className: "mqtt-nowrap" }, time(at));
}

export function Button({ children, colour, className = "", ...rest }) {
  const look = colour ? `mqtt-button mqtt-solid-${colour}` : "mqtt-button";
  return h("button", { type: "button", className: `${look} ${className}`, ...rest }, children);
}

export function Notice({ kind = "error", children, onClose }) {
  return h(
    "div",
    { className: `mqtt-notice mqtt-${kind === "error" ? "red" : kind}`, role: kind === "error" ? "alert" : "status" },
    h("div", null, children),
    onClose ? h("button", { type: "button", className: "mqtt-close", "aria-label": "Close", onClick: onClose }, "×") : null,
  );
}

// What was asked and did not come; what is shown below is older then.
export function Trouble({ polled }) {
  if (!polled.error) return null;
  const old = polled.data && polled.at ? ` What is shown is of ${time(polled.at / 1000)}.` : "";
  return h(Notice, null, `${shown(polled.error.message)}.${old}`);
}

// What was chosen last, until the router has it: of two changes in one moment the second must not undo the first.
let underway = null;

function changed(before, changes) {
  const after = new URLSearchParams(before);
  // Another filter or order begins with the first page.
  if (!("page" in changes) && !("open" in changes)) after.delete("page");
  for (const [name, value] of Object.entries(changes)) {
    after.delete(name);
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== "" && each !== null && each !== undefined && each !== false) after.append(name, String(each));
    }
  }
  return after;
}

// What is chosen is in the page's address: a link to it shows the same.
export function useChoice() {
  const [parameters, setParameters] = useSearchParams();
  useEffect(() => {
    underway = null;
  }, [parameters]);
  const set = (changes) => {
    underway = changed(underway ?? location.search, changes);
    setParameters(underway, { replace: true });
  };
  return [parameters, set];
}

export function TextFilter({ name, label, placeholder }) {
  const [parameters, set] = useChoice();
  const chosen = parameters.get(name) ?? "";
  const [typed, setTyped] = useState(chosen);
  useEffect(() => setTyped(chosen), [chosen]);
  useEffect(() => {
    if (typed === chosen) return undefined;
    const timer = setTimeout(() => set({ [name]: typed.trim() }), 400);
    return () => clearTimeout(timer);
  }, [typed]);
  return h(
    "label",
    { className: "mqtt-filter" },
    label,
    h("input", {
      className: "mqtt-input",
      type: "search",
      name,
      placeholder,
      value: typed,
      onChange: (event) => setTyped(event.target.value),
    }),
  );
}

export function ChoiceFilter({ name, label, values }) {
  const [parameters, set] = useChoice();
  const chosen = parameters.getAll(name);
  const toggle = (value) =>
    set({ [name]: chosen.includes(value) ? chosen.filter((each) => each !== value) : [...chosen, value] });
  return h(
    "details",
    { className: "mqtt-choice" },
    h("summary", { className: "mqtt-button" }, chosen.length ? `${label}: ${chosen.join(", ")}` : `${label}: all`),
    h(
      "div",
      { className: "mqtt-menu" },
      values.map((value) =>
        h(
          "label",
          { key: value },
          h("input", { type: "checkbox", checked: chosen.includes(value), onChange: () => toggle(value) }),
          h(Badge, { state: value }),
        ),
      ),
    ),
  );
}

export const SIZES = [25, 50, 100, 250, 500];

// Who types a part of a name finds it. A `*` of his own says where it may begin and end.
export const contains = (text) => (text && !text.includes("*") ? `*${text}*` : text);

// What a list asks of the API for the page, size and order that are chosen.
export function pageOf(parameters, order) {
  const limit = Number(parameters.get("size")) || 50;
  return {
    sort: parameters.get("sort") ?? order.sort,
    descending: parameters.has("sort") ? parameters.has("desc") : Boolean(order.descending),
    offset: (Number(parameters.get("page")) || 0) * limit,
    limit,
  };
}

// `known`: how many there are in all; undefined while that is on its way.
export function Paging({ total: known, noun }) {
  const [parameters, set] = useChoice();
  const total = known ?? 0;
  const size = Number(parameters.get("size")) || 50;
  const page = Number(parameters.get("page")) || 0;
  const last = Math.max(0, Math.ceil(total / size) - 1);
  const first = total ? page * size + 1 : 0;
  const all = known === undefined ? "…" : count(total, noun);
  return h(
    "div",
    { className: "mqtt-paging" },
    h("span", null, total > size ? `${first} to ${Math.min(total, first + size - 1)} of ${all}` : all),
    h(Button, { "aria-label": "First page", disabled: page === 0, onClick: () => set({ page: 0 }) }, "«"),
    h(Button, { "aria-label": "Page before", disabled: page === 0, onClick: () => set({ page: page - 1 || null }) }, "‹"),
    h(Button, { "aria-label": "Next page", disabled: page >= last, onClick: () => set({ page: page + 1 }) }, "›"),
    h(Button, { "aria-label": "Last page", disabled: page >= last, onClick: () => set({ page: last }) }, "»"),
    h(
      "select",
      { className: "mqtt-input", "aria-label": "Rows on a page", value: size, onChange: (event) => set({ size: event.target.value }) },
      SIZES.map((each) => h("option", { key: each, value: each }, `${each} rows`)),
    ),
  );
}

function Head({ column, order, set }) {
  const className = column.figure ? "mqtt-figure" : undefined;
  if (!column.sort) return h("th", { className }, column.title);
  const on = order.sort === column.sort;
  const turn = () => set({ sort: column.sort, desc: on && !order.descending ? "1" : null });
  const arrow = on ? (order.descending ? " ↓" : " ↑") : "";
  return h(
    "th",
    { className, "aria-sort": on ? (order.descending ? "descending" : "ascending") : "none" },
    h("button", { type: "button", className: "mqtt-sort", onClick: turn }, column.title + arrow),
  );
}

// `columns`: {title, cell(row), sort?}. `selection`: {has(row), toggle(rows, on)}, or nothing to select.
export function Table({ columns, rows, id, order = {}, selection, empty = "Nothing to show.", dim }) {
  const [, set] = useChoice();
  const all = useRef(null);
  const chosen = selection ? rows.filter((row) => selection.has(row)).length : 0;
  useEffect(() => {
    if (all.current) all.current.indeterminate = chosen > 0 && chosen < rows.length;
  });
  const box = (label, checked, onChange, ref) =>
    h("input", { type: "checkbox", "aria-label": label, checked, onChange, ref });
  return h(
    "div",
    { className: dim ? "mqtt-scroll mqtt-dim" : "mqtt-scroll" },
    h(
      "table",
      { className: "mqtt-table" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          selection
            ? h("th", null, box("Select all of this page", rows.length > 0 && chosen === rows.length, (event) => selection.toggle(rows, event.target.checked), all))
            : null,
          columns.map((column) => h(Head, { key: column.title, column, order, set })),
        ),
      ),
      h(
        "tbody",
        null,
        rows.map((row) =>
          h(
            "tr",
            { key: id(row), className: selection?.has(row) ? "mqtt-chosen" : undefined },
            selection
              ? h("td", null, box(`Select ${shown(id(row))}`, selection.has(row), (event) => selection.toggle([row], event.target.checked)))
              : null,
            columns.map((column) => h("td", { key: column.title, className: column.figure ? "mqtt-figure" : undefined }, column.cell(row))),
          ),
        ),
        rows.length === 0
          ? h("tr", null, h("td", { colSpan: columns.length + 1, className: "mqtt-empty" }, empty))
          : null,
      ),
    ),
  );
}

// Rows that were ticked, over all pages of a list, as they were seen last. `shownRows` are those of this page.
export function useSelection(id, shownRows) {
  const [chosen, setChosen] = useState(new Map());
  const fresh = new Map(shownRows.map((row) => [id(row), row]));
  return {
    rows: [...chosen].map(([name, row]) => fresh.get(name) ?? row),
    has: (row) => chosen.has(id(row)),
    toggle: (rows, on) =>
      setChosen((before) => {
        const after = new Map(before);
        for (const row of rows) {
          if (on) after.set(id(row), row);
          else after.delete(id(row));
        }
        return after;
      }),
    clear: () => setChosen(new Map()),
  };
}

// What can be done to the rows that are ticked, as long as there are any.
export function Selected({ selection, noun, children }) {
  if (!selection.rows.length) return null;
  return h(
    "div",
    { className: "mqtt-bar mqtt-acts" },
    h("strong", null, `${count(selection.rows.length, noun)} selected`),
    children,
    h(Button, { onClick: selection.clear }, "Select none"),
  );
}

// Names and values, without those that are not known.
export function Facts({ facts }) {
  return h(
    "dl",
    { className: "mqtt-facts" },
    facts
      .filter(([, value]) => value !== null && value !== undefined && value !== "" && !(Array.isArray(value) && !value.length))
      .map(([name, value], place) => [
        h("dt", { key: `${place} name` }, shown(name)),
        h("dd", { key: place }, typeof value === "object" && !Array.isArray(value) ? value : h(Text, { value: Array.isArray(value) ? value.join(", ") : value, wide: true })),
      ]),
  );
}

// One worker or job, beside its list. Whoever works with the keyboard is taken there, and back.
export function Drawer({ title, onClose, children }) {
  const drawer = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    drawer.current.focus();
    return () => before?.focus?.();
  }, []);
  useEffect(() => {
    const close = (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) onClose();
    };
    document.addEventListener("keydown", close);
    return () => document.removeEventListener("keydown", close);
  }, []);
  return h(
    "aside",
    { ref: drawer, className: "mqtt-drawer", "aria-label": shown(title), tabIndex: -1 },
    h(
      "header",
      null,
      h("h2", null, h(Text, { value: title, wide: true })),
      h("button", { type: "button", className: "mqtt-close", "aria-label": "Close", onClick: onClose }, "×"),
    ),
    children,
  );
}

export function Section({ title, children }) {
  return h("section", { className: "mqtt-section" }, h("h3", null, title), children);
}

export function To({ to, children, title }) {
  return h(Link, { className: "mqtt-link", to, title }, children);
}
