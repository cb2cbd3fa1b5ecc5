// The page of workers, and one of them.

import { address, h, place } from "./h.js";
import { usePolled } from "./api.js";
import { bytes, duration, labels, percent, since, time } from "./format.js";
import { WorkerButtons, taskOf, useAsk } from "./acts.js";
import {
  Badge, ChoiceFilter, Drawer, Facts, Paging, Section, Selected, Table, Text, TextFilter, To, Trouble, When,
  contains, pageOf, useChoice, useSelection,
} from "./parts.js";
import { Acts } from "./bridge.js";

export const STATES = [
  "starting", "idle", "running", "terminating", "offline", "unknown", "maintenance request", "maintenance pending",
  "maintenance mode", "maintenance exit", "offline maintenance", "shutdown request",
];

const ORDER = { sort: "name" };
const id = (worker) => worker.name;

// What is odd about a worker, beside its state.
function oddities(worker) {
  const why = worker.own_maintenance ? `by itself: ${worker.reason}` : worker.reason;
  return [why, ...(worker.notes ?? [])].filter(Boolean).join("; ");
}

function Slots({ worker }) {
  const share = worker.slots ? Math.min(1, worker.used / worker.slots) : 0;
  return h(
    "span",
    { className: "mqtt-slots", title: `${worker.used} used, ${worker.free} free` },
    h("meter", { min: 0, max: 1, value: share, "aria-label": "Slots used" }),
    ` ${worker.used} / ${worker.slots}`,
  );
}

function Name({ worker, open }) {
  return h(
    "div",
    { className: "mqtt-name" },
    h("button", { type: "button", className: "mqtt-link", onClick: () => open(worker) }, h(Text, { value: worker.name })),
    h("small", null, h(Text, { value: labels(worker).join(", ") })),
  );
}

function State({ worker }) {
  const odd = oddities(worker);
  return h("div", { className: "mqtt-name" }, h("span", null, h(Badge, { state: worker.state })), odd ? h("small", null, h(Text, { value: odd })) : null);
}

function columns(open) {
  return [
    { title: "Name", sort: "name", cell: (worker) => h(Name, { worker, open }) },
    { title: "State", sort: "state", cell: (worker) => h(State, { worker }) },
    { title: "Queues", cell: (worker) => h(Text, { value: (worker.queues ?? []).join(", ") }) },
    { title: "Slots", sort: "free", cell: (worker) => h(Slots, { worker }) },
    { title: "Jobs", sort: "running", figure: true, cell: (worker) => worker.running },
    { title: "Version", sort: "version", cell: (worker) => h(Text, { value: worker.version }) },
    { title: "Last seen", sort: "seen_at", cell: (worker) => h("span", { className: "mqtt-nowrap", title: time(worker.seen_at) }, `${since(worker.seen_at)} ago`) },
    { title: "CPU", figure: true, cell: ({ health = {} }) => percent(health.cpu, 100) },
    { title: "Memory", figure: true, cell: ({ health = {} }) => percent(health.memory_used, health.memory_total) },
    { title: "Disk free", figure: true, cell: ({ health = {} }) => bytes(health.disk_free) },
    { title: "Temp.", figure: true, cell: ({ health = {} }) => (Number.isFinite(health.temperature) ? `${Math.round(health.temperature)} °C` : "") },
    { title: "Comment", cell: (worker) => h(Text, { value: worker.comment }) },
  ];
}

export function Workers({ me, team }) {
  const [parameters, set] = useChoice();
  const order = pageOf(parameters, ORDER);
  const polled = usePolled(
    address("workers", {
      team_name: team,
      name: contains(parameters.get("name")),
      state: parameters.getAll("state"),
      queue: parameters.get("queue"),
      label: parameters.get("label"),
      ...order,
    }),
  );
  const [ask, dialog] = useAsk(() => selection.clear());
  const rows = polled.data?.rows ?? [];
  const selection = useSelection(id, rows);
  return h(
    "div",
    null,
    h(Trouble, { polled }),
    h(
      "div",
      { className: "mqtt-bar" },
      h(TextFilter, { name: "name", label: "Name", placeholder: "part, or edge-*" }),
      h(ChoiceFilter, { name: "state", label: "State", values: STATES }),
      h(TextFilter, { name: "queue", label: "Queue", placeholder: "edge or ed*" }),
      h(TextFilter, { name: "label", label: "Label", placeholder: "site=plant-4" }),
      h(Paging, { total: polled.data?.total, noun: "worker" }),
    ),
    h(Selected, { selection, noun: "worker" }, h(WorkerButtons, { workers: selection.rows, team, ask })),
    h(Table, {
      columns: columns((worker) => set({ open: worker.name })),
      rows,
      id,
      order,
      selection: me.act ? selection : null,
      empty: polled.data ? "No worker is like that." : "…",
    }),
    parameters.has("open")
      ? h(Worker, { key: parameters.get("open"), name: parameters.get("open"), team, me, onClose: () => set({ open: null }) })
      : null,
    dialog,
  );
}

function healthFacts(health = {}) {
  return [
    ["CPU", percent(health.cpu, 100)],
    ["Load", health.load?.toFixed?.(2)],
    ["Memory", health.memory_total ? `${bytes(health.memory_used)} of ${bytes(health.memory_total)}` : ""],
    ["Disk", health.disk_total ? `${bytes(health.disk_free)} free of ${bytes(health.disk_total)}` : bytes(health.disk_free)],
    ["Temperature", Number.isFinite(health.temperature) ? `${health.temperature.toFixed(1)} °C` : ""],
    ["Battery", percent(health.battery, 100)],
    ["Uptime", duration(health.uptime)],
    ["Link, received", bytes(health.link_in)],
    ["Link, sent", bytes(health.link_out)],
    ["Journal", bytes(health.journal)],
    ...Object.entries(health.extra ?? {}).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
  ];
}

function workerFacts(worker) {
  const skew = Math.abs(worker.clock_offset ?? 0) >= 1 ? `${duration(Math.abs(worker.clock_offset))} ${worker.clock_offset > 0 ? "behind" : "ahead"}` : "";
  return [
    ["State", h(State, { worker })],
    ["Team", worker.team_name],
    ["Comment", worker.comment],
    ["Queues", worker.queues],
    ["Queues not allowed", worker.not_allowed],
    ["Slots", `${worker.used} used, ${worker.free} free of ${worker.slots}`],
    ["Version", worker.version],
    ["Labels", labels(worker)],
    ["Kinds of jobs", worker.kinds],
    ["Platform", Object.entries(worker.platform ?? {}).map(([name, value]) => `${name} ${value}`)],
    ["Last seen", `${since(worker.seen_at)} ago, ${time(worker.seen_at)}`],
    ["Clock", skew],
  ];
}

function Worker({ name, team, me, onClose }) {
  const polled = usePolled(address(`workers/${encodeURIComponent(name)}`, { team_name: team }));
  const [ask, dialog] = useAsk();
  const worker = polled.data;
  return h(
    Drawer,
    { title: name, onClose },
    h(Trouble, { polled }),
    worker
      ? h(
          "div",
          null,
          me.act ? h("div", { className: "mqtt-bar mqtt-acts" }, h(WorkerButtons, { workers: [worker], team, ask })) : null,
          h(Facts, { facts: workerFacts(worker) }),
          h(Section, { title: "Health" }, healthFacts(worker.health).some(([, value]) => value) ? h(Facts, { facts: healthFacts(worker.health) }) : h("p", null, "It has not said.")),
          h(Section, { title: "Jobs" }, h(JobsOf, { jobs: worker.jobs ?? [], name, team })),
          h(Section, { title: "Acts" }, h(Acts, { acts: worker.acts ?? [] })),
        )
      : null,
    dialog,
  );
}

function JobsOf({ jobs, name, team }) {
  return h(
    "div",
    null,
    h(Table, {
      columns: [
        { title: "Job", cell: (job) => h(To, { to: place("jobs", team, { open: job.id }) }, h(Text, { value: taskOf(job) })) },
        { title: "State", cell: (job) => h(Badge, { state: job.state }) },
        { title: "Queue", cell: (job) => h(Text, { value: job.queue }) },
        { title: "Since", cell: (job) => h(When, { at: job.started_at ?? job.queued_at }) },
      ],
      rows: jobs,
      id: (job) => job.id,
      empty: "It holds no job.",
    }),
    h("p", null, h(To, { to: place("jobs", team, { worker: name }) }, "All jobs of this worker")),
  );
}
