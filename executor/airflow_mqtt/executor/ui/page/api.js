// The HTTP API, asked as seldom as can be: what is seen is asked for each five seconds, by its mark of change (ETag), and
// nothing is asked for by a page that nobody sees.

import { useEffect, useState } from "./h.js";

const API = new URL("../../api/v1/", import.meta.url);
export const EVERY_MS = 5000;

// Asking again changes nothing about these: they say that the person or the address is wrong.
const FINAL = new Set([400, 401, 403, 404, 422]);
export const isFinal = (error) => FINAL.has(error.status);

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Without a session Airflow's own page goes to the login as well, and comes back.
function logIn() {
  const base = document.querySelector("base")?.href ?? location.origin;
  const login = new URL("api/v2/auth/login", base);
  login.searchParams.set("next", location.href);
  location.replace(login);
}

async function refusal(response) {
  let detail = null;
  try {
    detail = (await response.json()).detail;
  } catch {
    // A proxy in between answers with a page of its own.
  }
  if (Array.isArray(detail)) detail = detail.map((each) => each.msg).join("; ");
  return new Refused(response.status, detail || `the api-server answered ${response.status}`);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, API), { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the api-server does not answer");
  }
  if (response.status === 401) logIn();
  if (!response.ok && response.status !== 304) throw await refusal(response);
  return response;
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body) {
  const response = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  refreshAll();
  return response.json();
}

const watchers = new Set();

// Somebody here has just acted: whoever watches looks at once.
function refreshAll() {
  for (const look of watchers) look();
}

// Calls `look(signal)` now, again and again while the page is seen, and after an act; never two at once. `look` returns
// after how many milliseconds to look again, or null when there is no sense in it.
export function watch(look) {
  const controller = new AbortController();
  let timer = null;
  let busy = false;
  let again = false;
  let over = false;
  const go = async () => {
    clearTimeout(timer);
    timer = null;
    if (over || controller.signal.aborted || document.visibilityState !== "visible") return;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    const pause = await look(controller.signal);
    over = pause === null;
    busy = false;
    if (again) {
      again = false;
      go();
    } else if (!over && !controller.signal.aborted) {
      timer = setTimeout(go, pause);
    }
  };
  document.addEventListener("visibilitychange", go);
  watchers.add(go);
  go();
  return () => {
    controller.abort();
    clearTimeout(timer);
    watchers.delete(go);
    document.removeEventListener("visibilitychange", go);
  };
}

// What `path` answers, kept fresh: {data, error, at}. `data` is the last good answer, also of another filter of the same
// list until the new one is there; `at` is when it was known to be true. It is asked for each `every` milliseconds.
export function usePolled(path, every = EVERY_MS) {
  const [seen, setSeen] = useState({ data: null, error: null, at: null });
  useEffect(() => {
    if (path === null) {
      setSeen({ data: null, error: null, at: null });
      return undefined;
    }
    let mark = null;
    return watch(async (signal) => {
      try {
        const response = await ask(path, { signal, headers: mark ? { "If-None-Match": mark } : {} });
        const at = Date.now();
        if (response.status === 304) {
          setSeen((before) => ({ ...before, error: null, at }));
        } else {
          mark = response.headers.get("ETag");
          const data = await response.json();
          if (!signal.aborted) setSeen({ data, error: null, at });
        }
      } catch (error) {
        if (signal.aborted) return null;
        setSeen((before) => ({ ...before, data: isFinal(error) ? null : before.data, error }));
        return isFinal(error) ? null : EVERY_MS;
      }
      return every;
    });
  }, [path]);
  return seen;
}
