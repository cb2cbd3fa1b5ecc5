// The page of queues.

import { address, h, place } from "./h.js";
import { usePolled } from "./api.js";
import { since, time } from "./format.js";
import { Table, Text, To, Trouble } from "./parts.js";

const columns = (team) => [
  { title: "Queue", cell: (queue) => h(Text, { value: queue.queue }) },
  { title: "Waiting", figure: true, cell: (queue) => h(To, { to: place("jobs", team, { queue: queue.queue, state: "queued" }) }, queue.waiting) },
  { title: "Oldest", cell: (queue) => h("span", { className: "mqtt-nowrap", title: time(queue.oldest_at) }, queue.oldest_at ? since(queue.oldest_at) : "") },
  { title: "Running", figure: true, cell: (queue) => h(To, { to: place("jobs", team, { queue: queue.queue, state: "running" }) }, queue.running) },
  { title: "Workers", figure: true, cell: (queue) => h(To, { to: place("workers", team, { queue: queue.queue }) }, queue.workers) },
  { title: "Free slots", figure: true, cell: (queue) => queue.free },
  { title: "Why jobs wait", cell: (queue) => h(Text, { value: queue.note, wide: true }) },
];

export function Queues({ team }) {
  const polled = usePolled(address("queues", { team_name: team }));
  return h(
    "div",
    null,
    h(Trouble, { polled }),
    h(Table, {
      columns: columns(team),
      rows: polled.data?.rows ?? [],
      id: (queue) => queue.queue,
      empty: polled.data ? "Nothing waits, and no worker serves a queue." : "…",
    }),
  );
}
