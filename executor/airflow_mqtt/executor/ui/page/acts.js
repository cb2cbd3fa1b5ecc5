// What an operator does to workers and jobs, one or many: each act asks first, and says what became of it for each.

import { Fragment, address, h, useEffect, useId, useRef, useState } from "./h.js";
import { post, usePolled } from "./api.js";
import { count, shown } from "./format.js";
import { Badge, Button, Notice, Text } from "./parts.js";

const COMMENT = { name: "comment", label: "Comment, for whoever looks at it later", kind: "text" };
const QUEUES = { name: "queues", label: "Queues, with commas between them", kind: "line", required: true };

// What the API calls an act -> how it is asked. `offered`: for which workers it makes sense.
export const WORKER_ACTS = {
  "request-maintenance": {
    title: "Maintenance",
    asks: "No more jobs are taken. Jobs that run go on.",
    fields: [{ ...COMMENT, required: true }],
    offered: (worker) => !worker.maintenance,
  },
  "exit-maintenance": { title: "Exit maintenance", asks: "Jobs are taken again.", fields: [], offered: (worker) => worker.maintenance },
  "set-comment": { title: "Comment", asks: "What it says now is replaced.", fields: [COMMENT] },
  "add-queues": { title: "Add queues", asks: "These queues are served too.", fields: [QUEUES] },
  "remove-queues": { title: "Remove queues", asks: "No more jobs of these queues are taken. Jobs that are held go on.", fields: [QUEUES] },
  "reset-queues": { title: "Reset queues", asks: "The queues with which it was started are served.", fields: [] },
  "set-slots": {
    title: "Slots",
    asks: "So many jobs run at once. Empty: as many as it was started with.",
    fields: [{ name: "slots", label: "Slots", kind: "number" }],
  },
  shutdown: {
    title: "Shut down",
    asks: "Jobs are ended in order, then the worker stops. Somebody has to start it again on the device.",
    fields: [COMMENT],
    danger: true,
  },
  remove: {
    title: "Remove",
    asks: "It is forgotten, with all that was wished of it, once nothing is heard of it and it holds no job.",
    fields: [],
    danger: true,
  },
};

const CANCEL = {
  title: "Cancel",
  asks: "The task is ended. What runs on a device has ended when its worker has confirmed it.",
  fields: [{ name: "reason", label: "Reason", kind: "line" }],
  danger: true,
};

function value(field, text) {
  if (field.name === "queues") return text.split(",").map((each) => each.trim()).filter(Boolean);
  if (field.kind === "number") return text === "" ? null : Number(text);
  return text.trim();
}

function Field({ field, text, onChange }) {
  const common = {
    className: "mqtt-input",
    name: field.name,
    value: text,
    required: Boolean(field.required),
    onChange: (event) => onChange(event.target.value),
  };
  const input =
    field.kind === "text"
      ? h("textarea", { ...common, rows: 3 })
      : h("input", { ...common, type: field.kind === "number" ? "number" : "text", min: 1 });
  return h("label", { className: "mqtt-field" }, field.label + (field.required ? " (needed)" : ""), input);
}

// Outcomes after which there is nothing for the person to see to.
const DONE = new Set(["wished", "wished before", "cancelled"]);

function Ask({ request, onClose, onDone }) {
  const { act, targets } = request;
  const dialog = useRef(null);
  const [texts, setTexts] = useState(Object.fromEntries(act.fields.map((field) => [field.name, request.texts?.[field.name] ?? ""])));
  const [step, setStep] = useState({ busy: false, error: null, results: null });
  useEffect(() => {
    if (!dialog.current.open) dialog.current.showModal();
  }, []);
  const go = async (event) => {
    event.preventDefault();
    setStep({ busy: true, error: null, results: null });
    try {
      const values = Object.fromEntries(act.fields.map((field) => [field.name, value(field, texts[field.name])]));
      const { results } = await post(request.path, { ...request.body, ...values });
      onDone(results);
      // The browser then gives the focus back to where it was, and tells us of the end.
      if (results.every((each) => DONE.has(each.outcome))) dialog.current?.close();
      else setStep({ busy: false, error: null, results });
    } catch (error) {
      setStep({ busy: false, error: error.message, results: null });
    }
  };
  const prefix = useId();
  const missing = act.fields.some((field) => field.required && !texts[field.name].trim());
  return h(
    "dialog",
    {
      ref: dialog,
      className: "mqtt-dialog",
      role: act.danger ? "alertdialog" : "dialog",
      "aria-labelledby": `${prefix}-title`,
      "aria-describedby": `${prefix}-asks`,
      onClose,
      // While it is underway nobody knows what becomes of it: Escape must not take the answer away.
      onCancel: (event) => step.busy && event.preventDefault(),
    },
    h(
      "form",
      { onSubmit: go },
      h("h2", { id: `${prefix}-title` }, `${act.title}: ${count(targets.length, request.noun)}`),
      h("p", { id: `${prefix}-asks` }, act.asks),
      h(
        "ul",
        { className: "mqtt-targets" },
        targets.slice(0, 8).map((each) => h("li", { key: each.id }, h(Text, { value: each.label, wide: true }))),
        targets.length > 8 ? h("li", null, `and ${targets.length - 8} more`) : null,
      ),
      step.results
        ? h(
            "ul",
            { className: "mqtt-results", role: "status" },
            step.results.map((each) => h("li", { key: each.name }, h(Text, { value: `${each.name}: ${each.text}`, wide: true }))),
          )
        : act.fields.map((field) =>
            h(Field, { key: field.name, field, text: texts[field.name], onChange: (text) => setTexts({ ...texts, [field.name]: text }) }),
          ),
      step.error ? h(Notice, null, shown(step.error)) : null,
      h(
        "footer",
        null,
        h(Button, { disabled: step.busy, onClick: () => dialog.current.close() }, step.results ? "Close" : "Go back"),
        step.results
          ? null
          : h(Button, { type: "submit", colour: act.danger ? "red" : "brand", disabled: step.busy || missing }, act.title),
      ),
    ),
  );
}

// A request that is being asked, and the dialog for it.
export function useAsk(onDone) {
  const [request, setRequest] = useState(null);
  const dialog = request
    ? h(Ask, { request, onClose: () => setRequest(null), onDone: (results) => onDone?.(request, results) })
    : null;
  return [setRequest, dialog];
}

// `seen` is what was looked at: where somebody else was first, nothing is done.
function workerRequest(name, workers, team) {
  return {
    act: WORKER_ACTS[name],
    path: `workers/${name}`,
    body: {
      team_name: team,
      names: workers.map((each) => each.name),
      seen: Object.fromEntries(workers.map((each) => [each.name, each.revision])),
    },
    noun: "worker",
    targets: workers.map((each) => ({ id: each.name, label: each.name })),
    texts: workers.length === 1 ? { comment: name === "set-comment" ? workers[0].comment : "" } : {},
  };
}

export function taskOf(job) {
  const index = job.map_index >= 0 ? ` [${job.map_index}]` : "";
  return job.dag_id ? `${job.dag_id} / ${job.task_id || job.kind}${index}` : `${job.kind} ${job.id}`;
}

export function cancelRequest(jobs, team) {
  return {
    act: CANCEL,
    path: "jobs/cancel",
    body: { team_name: team, ids: jobs.map((each) => each.id) },
    noun: "job",
    targets: jobs.map((each) => ({ id: each.id, label: taskOf(each) })),
  };
}

export function WorkerButtons({ workers, team, ask }) {
  return h(
    Fragment,
    null,
    Object.entries(WORKER_ACTS)
      .filter(([, act]) => !act.offered || workers.length !== 1 || act.offered(workers[0]))
      .map(([name, act]) =>
        h(Button, { key: name, className: act.danger ? "mqtt-danger" : "", onClick: () => ask(workerRequest(name, workers, team)) }, `${act.title}…`),
      ),
  );
}

// --- jobs whose end was asked for here, until their devices have confirmed

const ENDED = new Set(["succeeded", "failed", "lost", "cancelled"]);
export const ended = (job) => ENDED.has(job.state);

function said(job) {
  if (job.state === "cancelled") return job.worker ? `worker ${job.worker} has confirmed` : "it had not started";
  if (ended(job)) return "it ended by itself before its worker heard of it";
  return job.worker ? `waiting for worker ${job.worker} to confirm` : "waiting for the bridge";
}

export function Followed({ id, team, onClose }) {
  const polled = usePolled(address(`jobs/${encodeURIComponent(id)}`, { team_name: team }));
  const job = polled.data;
  if (!job) return polled.error ? h(Notice, { onClose }, shown(polled.error.message)) : null;
  return h(
    Notice,
    { kind: ended(job) ? "green" : "orange", onClose },
    h(Badge, { state: job.state }),
    " ",
    h(Text, { value: `${taskOf(job)}: ${said(job)}`, wide: true }),
  );
}
