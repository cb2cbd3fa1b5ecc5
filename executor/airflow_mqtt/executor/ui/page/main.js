// The fleet's page in Airflow's UI. Airflow imports this module, and shows what it finds under the plugin's name.

import { HOME, Link, address, h, place, useLocation, useState } from "./h.js";
import { usePolled } from "./api.js";
import { shown } from "./format.js";
import { Notice, Trouble, useChoice } from "./parts.js";
import { Bridge } from "./bridge.js";
import { Jobs } from "./jobs.js";
import { Queues } from "./queues.js";
import { Workers } from "./workers.js";

const TABS = { workers: ["Workers", Workers], jobs: ["Jobs", Jobs], queues: ["Queues", Queues], bridge: ["Bridge", Bridge] };

// Jobs whose end was asked for here. They outlive a change of the tab.
function useFollowed() {
  const [followed, setFollowed] = useState([]);
  const follow = (more, less) =>
    setFollowed((before) => [...new Set([...more, ...before])].filter((id) => id !== less));
  return [followed, follow];
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
  const [followed, follow] = useFollowed();
  const teams = usePolled("teams");
  const wanted = pathname.slice(HOME.length + 1).split("/")[0];
  const current = wanted in TABS ? wanted : "workers";
  const known = teams.data?.rows ?? [];
  const team = parameters.get("team") ?? (known.includes("") ? "" : (known[0] ?? ""));
  const me = usePolled(teams.data ? address("me", { team_name: team }) : null);
  const [, Page] = TABS[current];
  const body = () => {
    if (!me.data || !teams.data) return h(Trouble, { polled: me.error ? me : teams });
    if (!me.data.read) return h(Notice, null, "You may not look at the fleet. Airflow's administrator gives that right.");
    return h(Page, { me: me.data, team, followed, follow });
  };
  return h(
    "div",
    { className: "mqtt-page" },
    h("header", { className: "mqtt-head" }, h("h1", null, "MQTT fleet"), h(Tabs, { current, team }), h(TeamChoice, { teams: known, team })),
    body(),
  );
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

globalThis["MQTT fleet"] = Fleet;
