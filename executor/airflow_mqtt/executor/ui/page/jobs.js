// The page of jobs, and one of them with its history and log.

import { address, h, place, useEffect, useRef, useState } from "./h.js";
import { EVERY_MS, get, isFinal, usePolled, watch } from "./api.js";
import { duration, labels, readable, shown, since, time } from "./format.js";
import { Followed, cancelRequest, ended, taskOf, useAsk } from "./acts.js";
import {
  Badge, Button, ChoiceFilter, Drawer, Facts, Notice, Paging, Section, Selected, Table, Text, TextFilter, To, Trouble, When,
  contains, pageOf, useChoice, useSelection,
} from "./parts.js";
import { Acts } from "./bridge.js";

export const STATES = ["queued", "dispatched", "accepted", "running", "cancelling", "succeeded", "failed", "lost", "cancelled"];

const ORDER = { sort: "queued_at", descending: true };
const FOLLOWED = 5;
const id = (job) => job.id;

const part = encodeURIComponent;
const dagAddress = (job) => `/dags/${part(job.dag_id)}`;
const runAddress = (job) => `${dagAddress(job)}/runs/${part(job.run_id)}`;
const taskAddress = (job) => `${runAddress(job)}/tasks/${part(job.task_id)}${job.map_index >= 0 ? `/mapped/${job.map_index}` : ""}`;
const ofWorker = (job, team) => place("workers", team, { open: job.worker });

function link(to, text) {
  return text ? h(To, { to }, h(Text, { value: text })) : null;
}

// How long it waits, runs, or ran.
function age(job) {
  const from = job.started_at ?? job.queued_at;
  return duration((job.finished_at ?? Date.now() / 1000) - from);
}

function changedAt(job) {
  return Math.max(...[job.queued_at, job.dispatched_at, job.accepted_at, job.started_at, job.finished_at].filter(Boolean));
}

function State({ job }) {
  const why = job.reason || (job.state === "cancelling" ? `waiting for worker ${job.worker} to confirm` : "");
  return h("div", { className: "mqtt-name" }, h("span", null, h(Badge, { state: job.state })), why ? h("small", null, h(Text, { value: why })) : null);
}

function columns(team, open) {
  return [
    { title: "Job", cell: (job) => h(Button, { title: "Its history and log", onClick: () => open(job) }, "Open") },
    { title: "Dag", sort: "dag_id", cell: (job) => link(dagAddress(job), job.dag_id) },
    { title: "Run", cell: (job) => link(runAddress(job), job.run_id) },
    { title: "Task", cell: (job) => (job.task_id ? link(taskAddress(job), job.task_id) : h(Text, { value: job.kind })) },
    { title: "Map", figure: true, cell: (job) => (job.map_index >= 0 ? job.map_index : "") },
    { title: "Try", figure: true, cell: (job) => job.try_number || "" },
    { title: "State", sort: "state", cell: (job) => h(State, { job }) },
    { title: "Queue", sort: "queue", cell: (job) => h(Text, { value: job.queue }) },
    { title: "Worker", sort: "worker", cell: (job) => (job.worker ? link(ofWorker(job, team), job.worker) : null) },
    { title: "Attempt", figure: true, cell: (job) => job.attempt },
    { title: "Queued at", sort: "queued_at", cell: (job) => h(When, { at: job.queued_at }) },
    { title: "Age", cell: (job) => h("span", { className: "mqtt-nowrap" }, age(job)) },
    { title: "Last update", cell: (job) => h("span", { className: "mqtt-nowrap", title: time(changedAt(job)) }, `${since(changedAt(job))} ago`) },
  ];
}

export function Jobs({ me, team, followed }) {
  const [parameters, set] = useChoice();
  const order = pageOf(parameters, ORDER);
  const polled = usePolled(
    address("jobs", {
      team_name: team,
      state: parameters.getAll("state"),
      dag_id: contains(parameters.get("dag_id")),
      run_id: contains(parameters.get("run_id")),
      task_id: contains(parameters.get("task_id")),
      queue: parameters.get("queue"),
      worker: parameters.get("worker"),
      ...order,
    }),
  );
  const rows = polled.data?.rows ?? [];
  const selection = useSelection(id, rows);
  const [ask, dialog] = useAsk((request) => {
    selection.clear();
    followed.add(request.body.ids, team);
  });
  const following = followed.of(team);
  const living = selection.rows.filter((job) => !ended(job));
  return h(
    "div",
    null,
    h(Trouble, { polled }),
    following.slice(0, FOLLOWED).map((each) => h(Followed, { key: each, id: each, team, onClose: () => followed.drop(each) })),
    following.length > FOLLOWED ? h(Notice, { kind: "orange" }, `and ${following.length - FOLLOWED} more whose end was asked for`) : null,
    h(
      "div",
      { className: "mqtt-bar" },
      h(TextFilter, { name: "dag_id", label: "Dag" }),
      h(TextFilter, { name: "run_id", label: "Run" }),
      h(TextFilter, { name: "task_id", label: "Task" }),
      h(ChoiceFilter, { name: "state", label: "State", values: STATES }),
      h(TextFilter, { name: "queue", label: "Queue" }),
      h(TextFilter, { name: "worker", label: "Worker" }),
      h(Paging, { total: polled.data?.total, noun: "job" }),
    ),
    h(
      Selected,
      { selection, noun: "job" },
      h(Button, { className: "mqtt-danger", disabled: living.length === 0, onClick: () => ask(cancelRequest(living, team)) }, "Cancel…"),
    ),
    h(Table, {
      columns: columns(team, (job) => set({ open: job.id })),
      rows,
      id,
      order,
      selection: me.act ? selection : null,
      empty: polled.data ? "No job is like that." : "…",
    }),
    parameters.has("open")
      ? h(Job, { key: parameters.get("open"), id: parameters.get("open"), team, me, followed, onClose: () => set({ open: null }) })
      : null,
    dialog,
  );
}

function jobFacts(job, team) {
  return [
    ["State", h(State, { job })],
    ["Waits because", job.note],
    ["Cancelled because", job.cancel_reason],
    ["Airflow's state", job.final_state],
    ["Run", job.dag_id ? link(runAddress(job), job.run_id) : ""],
    ["Task", job.task_id ? link(taskAddress(job), job.task_id) : ""],
    ["Try", job.try_number || ""],
    ["Kind", job.kind],
    ["Queue", job.queue],
    ["Asks for", labels(job)],
    ["Must begin by", time(job.not_after)],
    ["Worker", job.worker ? link(ofWorker(job, team), job.worker) : ""],
    ["Attempt", job.attempt],
    ["Priority", job.priority],
    ["Slots", job.slots],
    ["Queued", time(job.queued_at)],
    ["Started", time(job.started_at)],
    ["Finished", time(job.finished_at)],
    ["Job", job.id],
  ];
}

const EVENT_COLUMNS = [
  { title: "At", cell: (event) => h(When, { at: event.at }) },
  { title: "By", cell: (event) => h(Text, { value: event.by }) },
  { title: "Event", cell: (event) => h(Text, { value: event.event }) },
  { title: "State", cell: (event) => h(Badge, { state: event.after }) },
  { title: "Attempt", figure: true, cell: (event) => event.attempt },
  { title: "Reason", cell: (event) => h(Text, { value: event.reason }) },
];

function Job({ id: wanted, team, me, followed, onClose }) {
  const polled = usePolled(address(`jobs/${part(wanted)}`, { team_name: team }));
  const [ask, dialog] = useAsk((request) => followed.add(request.body.ids, team));
  const job = polled.data;
  return h(
    Drawer,
    { title: job ? taskOf(job) : wanted, onClose },
    h(Trouble, { polled }),
    job
      ? h(
          "div",
          null,
          me.act && !ended(job)
            ? h("div", { className: "mqtt-bar mqtt-acts" }, h(Button, { className: "mqtt-danger", onClick: () => ask(cancelRequest([job], team)) }, "Cancel…"))
            : null,
          h(Facts, { facts: jobFacts(job, team) }),
          h(Section, { title: "History" }, h(Table, { columns: EVENT_COLUMNS, rows: job.events ?? [], id: (event) => `${event.at} ${event.event} ${event.after}` })),
          h(Section, { title: "Acts" }, h(Acts, { acts: job.acts ?? [] })),
          job.attempt > 0 ? h(Section, { title: "Log" }, h(Log, { job, team })) : null,
        )
      : null,
    dialog,
  );
}

// No more than this of a log is read here by itself: Airflow's own page shows all of it.
const LOG_LIMIT = 500_000;

function Log({ job, team }) {
  const [chosen, setChosen] = useState(null);
  const attempt = chosen ?? job.attempt;
  return h(
    "div",
    null,
    h(
      "p",
      { className: "mqtt-bar" },
      job.attempt > 1
        ? h(
            "select",
            { className: "mqtt-input", "aria-label": "Attempt", value: attempt, onChange: (event) => setChosen(Number(event.target.value)) },
            Array.from({ length: job.attempt }, (_, before) => h("option", { key: before, value: before + 1 }, `attempt ${before + 1}`)),
          )
        : null,
      job.task_id ? h(To, { to: taskAddress(job) }, "Airflow's page of this log") : null,
    ),
    h(LogText, { key: attempt, id: job.id, team, attempt }),
  );
}

function LogText({ id: wanted, team, attempt }) {
  const [log, setLog] = useState({ text: "", complete: false, error: null });
  const [limit, setLimit] = useState(LOG_LIMIT);
  const read = useRef({ offset: 0, text: "" });
  useEffect(
    () =>
      watch(async (signal) => {
        try {
          for (;;) {
            const before = read.current.offset;
            const more = await get(address(`jobs/${part(wanted)}/log`, { team_name: team, attempt, offset: before }));
            if (signal.aborted) return null;
            read.current = { offset: more.next_offset, text: read.current.text + more.text };
            setLog({ text: read.current.text, complete: more.complete, error: null });
            if (more.complete || read.current.text.length >= limit) return null;
            if (more.next_offset === before) return EVERY_MS;
          }
        } catch (error) {
          if (signal.aborted) return null;
          setLog((seen) => ({ ...seen, error: error.message }));
          return isFinal(error) ? null : EVERY_MS;
        }
      }),
    [limit],
  );
  const more = !log.complete && log.text.length >= limit;
  return h(
    "div",
    null,
    log.error ? h(Notice, null, shown(log.error)) : null,
    h("pre", { className: "mqtt-log" }, log.text ? readable(log.text) : "Nothing yet."),
    more ? h(Button, { onClick: () => setLimit(limit + LOG_LIMIT) }, "More") : null,
  );
}
