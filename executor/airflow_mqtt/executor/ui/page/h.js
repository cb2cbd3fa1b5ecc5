// React and its router as Airflow's page shares them: Airflow 3.1, 3.2 and 3.3 put both on `globalThis`. Nothing else
// of theirs is used, so that one page works with all three: colours and fonts are the page's own CSS variables.

export const { createElement: h, Fragment, useEffect, useId, useRef, useState } = globalThis.React;
export const { Link, useLocation, useNavigate, useSearchParams } = globalThis.ReactRouterDOM;

// Where Airflow's router shows us. `url_route` of the plugin says the same.
export const HOME = "/plugin/mqtt";

// `path?a=1&b=2&b=3`, without what is empty.
export function address(path, query = {}) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") parts.append(name, String(each));
    }
  }
  const text = parts.toString();
  return text ? `${path}?${text}` : path;
}

// One of our own pages, as a link. `team` is in all of them.
export const place = (page, team, query) => address(`${HOME}/${page}`, { team, ...query });
