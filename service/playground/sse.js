// Server-sent events over fetch: EventSource cannot carry a key. A lost connection is taken up where it broke.
import { Problem, send } from "./api.js";

const LONGEST_WAIT_MS = 5000;

/** The events {id, event, data} of a text stream. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) yield eventOf(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(block) {
  const event = { id: "", event: "message", data: "", retry: "" };
  for (const line of block.split("\n")) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name === "data" && event.data) event.data += `\n${value}`;
    else if (name in event) event[name] = value;
  }
  return event;
}

/**
 * Follow a job until its `done` event. `told(type, data)` gets each event once and in order; `lost(seconds)` is called
 * when the connection is gone and will be tried again, `back()` when it is there. Throws Problem for an unknown job.
 */
export async function follow(jobId, { told, lost, back }, signal) {
  let last = "0";
  let wait = 500;
  while (!signal.aborted) {
    try {
      const path = `/train/${encodeURIComponent(jobId)}/events`;
      const response = await send({ path, headers: { "Last-Event-ID": last } }, signal);
      back();
      if (response.status === 204) return;
      for await (const { id, event, data } of eventsOf(response.body)) {
        wait = 500;
        if (!id && event !== "warnings") continue;
        last = id || last;
        told(event, JSON.parse(data));
        if (event === "done") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status !== 0 && error.status < 500 && error.status !== 429) throw error;
    }
    lost(wait / 1000);
    await pause(wait, signal);
    wait = Math.min(2 * wait, LONGEST_WAIT_MS);
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
