// The fleet's page in Airflow's UI. Airflow imports this module, and shows what it finds under the plugin's name.

import { HOME, Link, address, h, place, useEffect, useLocation, useSearchParams, useState } from "./h.js";
import { usePolled } from "./api.js";
import { shown } from "./format.js";
import { Notice, Trouble, useChoice } from "./parts.js";
import { Bridge } from "./bridge.js";
import { Jobs } from "./jobs.js";
import { Queues } from "./queues.js";
import { Workers } from "./workers.js";

const TABS = { workers: ["Workers", Workers], jobs: ["Jobs", Jobs], queues: ["Queues", Queues], bridge: ["Bridge", Bridge] };

// Teams and rights do not change while somebody looks, or hardly so.
const SELDOM_MS = 60_000;

// Jobs whose end was asked for here. They outlive a change of the tab.
function useFollowed() {
  const [followed, setFollowed] = useState(new Map());
  return {
    of: (team) => [...followed].filter(([, theirs]) => theirs === team).map(([id]) => id),
    add: (ids, team) => setFollowed((before) => new Map([...ids.map((id) => [id, team]), ...before])),
    drop: (id) => setFollowed((before) => new Map([...before].filter(([each]) => each !== id))),
  };
}

function TeamChoice({ teams, team }) {
  const [, set] = useChoice();
  if (teams.length < 2) return null;
  return h(
    "label",
    { className: "mqtt-filter" },
    "Team",
    h(
      "select",
      { className: "mqtt-input", value: team, onChange: (event) => set({ team: event.target.value || null, open: null }) },
      teams.map((name) => h("option", { key: name, value: name }, name ? shown(name) : "(none)")),
    ),
  );
}

function Tabs({ current, team }) {
  return h(
    "nav",
    { className: "mqtt-tabs" },
    Object.entries(TABS).map(([name, [title]]) =>
      h(
        Link,
        {
          key: name,
          to: place(name, team),
          className: name === current ? "mqtt-tab mqtt-on" : "mqtt-tab",
          "aria-current": name === current ? "page" : undefined,
        },
        title,
      ),
    ),
  );
}

function Fleet() {
  const { pathname } = useLocation();
  const [parameters] = useChoice();
  const followed = useFollowed();
  const teams = usePolled("teams", SELDOM_MS);
  const wanted = pathname.slice(HOME.length + 1).split("/")[0];
  const current = Object.hasOwn(TABS, wanted) ? wanted : "workers";
  const known = teams.data?.rows ?? [];
  const team = parameters.get("team") ?? (known.includes("") ? "" : (known[0] ?? ""));
  const me = usePolled(teams.data ? address("me", { team_name: team }) : null, SELDOM_MS);
  const [, Page] = TABS[current];
  const body = () => {
    if (!me.data || !teams.data) return h(Trouble, { polled: me.error ? me : teams });
    if (!me.data.read) return h(Notice, null, "You may not look at the fleet. Airflow's administrator gives that right.");
    // Of another team all begins anew: what is ticked here must not be acted on there.
    return h(Page, { key: team, me: me.data, team, followed });
  };
  return h(
    "div",
    { className: "mqtt-page" },
    h("header", { className: "mqtt-head" }, h("h1", null, "MQTT fleet"), h(Tabs, { current, team }), h(TeamChoice, { teams: known, team })),
    body(),
  );
}

// Airflow's page draws us through its loader at first, and directly from the next change of the address on, which makes
// all of it anew: what was ticked by then would be gone. So the address is changed at once, to what it is.
let settled = false;

function Settled() {
  const [parameters, setParameters] = useSearchParams();
  const [shows, setShows] = useState(settled);
  useEffect(() => {
    if (settled) return;
    settled = true;
    setParameters(parameters, { replace: true });
    setShows(true);
  }, []);
  return shows ? h(Fleet) : null;
}

// Styles first: nothing is shown before they are there, or cannot come.
await new Promise((resolve) => {
  const styles = document.createElement("link");
  styles.rel = "stylesheet";
  styles.href = new URL("./page.css", import.meta.url).href;
  styles.onload = resolve;
  styles.onerror = resolve;
  document.head.append(styles);
});

globalThis["MQTT fleet"] = Settled;
