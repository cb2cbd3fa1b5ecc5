// The page of the bridge: who leads, who stands by, what was refused; and what people did.

import { address, h } from "./h.js";
import { usePolled } from "./api.js";
import { since, time } from "./format.js";
import { Facts, Notice, Paging, Section, Table, Text, Trouble, When, pageOf, useChoice } from "./parts.js";

const STANDBY = [
  { title: "Instance", cell: (bridge) => h(Text, { value: bridge.instance }) },
  { title: "Host", cell: (bridge) => h(Text, { value: bridge.host }) },
  { title: "Version", cell: (bridge) => h(Text, { value: bridge.version }) },
  { title: "Last seen", cell: (bridge) => h("span", { title: time(bridge.seen_at) }, `${since(bridge.seen_at)} ago`) },
];

const ACTS = [
  { title: "At", cell: (act) => h(When, { at: act.at }) },
  { title: "By", cell: (act) => h(Text, { value: act.by }) },
  { title: "Act", cell: (act) => h(Text, { value: act.act }) },
  { title: "On", cell: (act) => h(Text, { value: act.subject }) },
  { title: "Detail", cell: (act) => h(Text, { value: act.detail }) },
  { title: "Outcome", cell: (act) => h(Text, { value: act.outcome }) },
];

// `acts`: undefined while they are on their way.
export function Acts({ acts }) {
  return h(Table, {
    columns: ACTS,
    rows: acts ?? [],
    id: (act) => `${act.at} ${act.act} ${act.subject}`,
    empty: acts ? "Nobody has done anything here." : "…",
  });
}

function pairs(figures) {
  return Object.entries(figures ?? {}).map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : value]);
}

function Leader({ leader }) {
  if (!leader) return h(Notice, null, "No bridge leads: nothing is given to workers.");
  return h(Facts, {
    facts: [
      ["Instance", leader.instance],
      ["Host", leader.host],
      ["Version", leader.version],
      ["Leads since", leader.since ? `${time(leader.since)}, ${since(leader.since)}` : ""],
      ["Epoch", leader.epoch],
    ],
  });
}

export function Bridge({ team }) {
  const [parameters] = useChoice();
  const { offset, limit } = pageOf(parameters, {});
  const polled = usePolled(address("bridges", { team_name: team }));
  const acts = usePolled(address("acts", { team_name: team, offset, limit }));
  const { leader, standby, refused, figures } = polled.data ?? {};
  return h(
    "div",
    null,
    h(Trouble, { polled }),
    polled.data
      ? h(
          "div",
          { className: "mqtt-columns" },
          h(Section, { title: "Leads" }, h(Leader, { leader })),
          h(Section, { title: "Stands by" }, h(Table, { columns: STANDBY, rows: standby ?? [], id: (bridge) => bridge.instance, empty: "No bridge stands by." })),
          h(Section, { title: "Refused" }, pairs(refused).length ? h(Facts, { facts: pairs(refused) }) : h("p", null, "Nothing.")),
          pairs(figures).length ? h(Section, { title: "Figures" }, h(Facts, { facts: pairs(figures) })) : null,
        )
      : null,
    h(
      Section,
      { title: "What people did" },
      h(Trouble, { polled: acts }),
      h("div", { className: "mqtt-bar" }, h(Paging, { total: acts.data?.total, noun: "act" })),
      h(Acts, { acts: acts.data?.rows }),
    ),
  );
}
