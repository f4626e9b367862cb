// Keeps the front page live: pulls by their event streams, new pulls by asking now and then.

import {
  FINAL, ICONS, NONE, STALLED_AFTER, attribute, bytes, change, drawBar, heard, lost, pageAt, part, say, serverStart, set,
  tick, utc, watch,
} from "./orlop.js";

const page = document.getElementById("overview");
const namespace = page.dataset.namespace;
const table = document.getElementById("pulls");
const rows = table.tBodies[0];

// Pulls. What is known of each, by id; its row shows it.

const pulls = new Map();
const waiting = new Map();

function nameParts(reference) {
  const letters = [...reference];
  const slash = letters.lastIndexOf("/") + 1;
  const cut = Math.max(letters.length - 24, slash);
  return [letters.slice(0, cut).join(""), letters.slice(cut).join(""), cut === slash];
}

function draw(pull) {
  const row = pull.row;
  if (!row) return;
  const { progress } = pull;
  const runs = pull.state === "running";
  attribute(row, "data-state", pull.state);
  row.toggleAttribute("data-final", FINAL.has(pull.state));
  set(part(row, "icon"), ICONS[pull.state] ?? "");
  set(part(row, "word"), pull.state);
  set(part(row, "phase"), runs && pull.phase || "");
  const [head, tail] = part(row, "name").children;
  const [first, last, apart] = nameParts(pull.ref);
  part(row, "name").classList.toggle("apart", apart);
  set(head, first);
  set(tail, last);
  attribute(part(row, "name"), "title", pull.ref);
  set(part(row, "note"), note(pull));
  drawBar(row, progress, FINAL.has(pull.state));
  const stalled = runs && progress.stalled_seconds > STALLED_AFTER;
  set(part(row, "rate"), runs ? `${bytes(progress.rate_bps)}/s` : NONE);
  const waits = runs && progress.waiting_until;
  set(part(row, "eta"), waits ? "waits" : stalled ? "stalled" : runs && progress.eta_seconds != null ? watch(progress.eta_seconds) : NONE);
  const time = row.querySelector("time");
  attribute(time, "datetime", pull.created_at);
  attribute(time, "title", utc(pull.created_at));
}

function platformsInWords({ platforms, all_platforms: all }) {
  if (all) return "every platform";
  return platforms.length ? platforms.join(", ") : "this server's platform";
}

function note(pull) {
  if (pull.error) return pull.error.detail;
  const platforms = platformsInWords(pull);
  const { blobs_total: total, blobs_done: done } = pull.progress;
  return total ? `${platforms} · ${done} of ${total} blobs` : platforms;
}

function addRow(pull) {
  const row = document.getElementById("pull-row").content.firstElementChild.cloneNode(true);
  row.dataset.pull = pull.id;
  part(row, "name").href = `/pulls/${encodeURIComponent(pull.id)}?${new URLSearchParams({ namespace })}`;
  pull.row = row;
  pulls.set(pull.id, pull);
  waiting.delete(pull.id);
  draw(pull);
  rows.prepend(row);
  table.classList.remove("empty");
  document.getElementById("no-pulls").hidden = true;
  tick();
}

// Takes over what the server says of a pull. Says aloud only that its state changed, not each byte.
function learn(fresh) {
  const known = pulls.get(fresh.id);
  if (!known) {
    // What the page had no room for is not new, unless it runs by now.
    if (fresh.state === "running" || Date.parse(fresh.created_at) > serverStart) waiting.set(fresh.id, fresh);
    return;
  }
  const before = known.state;
  if (!("error" in fresh)) delete known.error;
  Object.assign(known, fresh);
  if (before && before !== known.state) say(`${known.ref}: ${known.state}`);
  draw(known);
}

// New pulls of others wait behind a button: rows must not move under a hand.
const fresh = document.getElementById("fresh");

function offerWaiting() {
  const count = waiting.size;
  fresh.hidden = count === 0;
  set(fresh, count === 1 ? "1 new pull – show" : `${count} new pulls – show`);
}

fresh.addEventListener("click", () => {
  const added = [...waiting.values()].sort((a, b) => a.created_at < b.created_at ? -1 : 1);
  added.forEach(addRow);
  offerWaiting();
  follow();
});

// Event streams. On plain HTTP a browser opens six connections to one host, over all its tabs: a few streams must
// leave room for everything else, and a hidden page holds none. Pulls without a stream are asked for instead.

const STREAMS = 2;
const streams = new Map();

function follow() {
  for (const [id, stream] of streams) {
    if (document.hidden || FINAL.has(pulls.get(id)?.state)) { stream.close(); streams.delete(id); }
  }
  if (document.hidden) return;
  const wanted = [...pulls.values()].filter((pull) => !FINAL.has(pull.state) && !streams.has(pull.id));
  wanted.sort((a, b) => (b.state === "running") - (a.state === "running"));
  for (const pull of wanted.slice(0, Math.max(0, STREAMS - streams.size))) open(pull.id);
}

function open(id) {
  const stream = new EventSource(`/api/v1/pulls/${encodeURIComponent(id)}/events?namespace=${encodeURIComponent(namespace)}`);
  streams.set(id, stream);
  const on = (name, take) => stream.addEventListener(name, (event) => {
    if (streams.get(id) !== stream) return;
    heard();
    take(JSON.parse(event.data));
  });
  stream.addEventListener("open", heard);
  on("snapshot", (pull) => learn(pull));
  on("progress", (progress) => learn({ ...pulls.get(id), progress }));
  on("phase", (change) => learn({ ...pulls.get(id), ...change }));
  on("end", (end) => {
    learn({ ...pulls.get(id), ...end });
    stream.close();
    streams.delete(id);
    // The last numbers come with the record itself.
    poll();
    follow();
    refresh();
  });
  stream.addEventListener("error", () => {
    if (streams.get(id) !== stream) return;
    lost("Reconnecting");
    // A stream that was refused does not come again by itself; the next look decides.
    if (stream.readyState === EventSource.CLOSED) streams.delete(id);
  });
}

// What a finished pull has changed: totals, leases and images come anew from the server's own page, which has escaped
// them. What is under the pointer or has the focus stays as it is.
async function refresh() {
  try {
    const whole = await pageAt("/");
    for (const part of document.querySelectorAll("[data-part]")) {
      const fresh = whole?.querySelector(`[data-part="${part.dataset.part}"]`);
      if (fresh && !part.matches(":hover, :focus-within")) part.replaceWith(document.adoptNode(fresh));
    }
    tick();
  } catch {
    // The page stays as it was; the word in the corner says what is wrong.
  }
}

// Asking: for new pulls, and for those without a stream.

let asking = false;
let timer = 0;
const LOGGED_OUT = new Error("logged out");

// An answer of the API about pulls; nothing where there is no such pull.
async function ask(rest) {
  const response = await fetch(`/api/v1/pulls${rest}`, { headers: { Accept: "application/json" } });
  if (response.status === 401) throw LOGGED_OUT;
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

// Rows that no list named: pulls that wait behind many others, or have ended since. A few each time, in turn.
function unnamed(found) {
  const rest = [...pulls.values()].filter((pull) => !FINAL.has(pull.state) && !streams.has(pull.id) && !found.has(pull.id));
  return rest.sort((a, b) => (a.asked ?? 0) - (b.asked ?? 0)).slice(0, 5);
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden || asking) return;
  asking = true;
  try {
    const found = new Map();
    // What runs may be older than many that wait.
    for (const more of [{}, { state: "running" }]) {
      const query = new URLSearchParams({ namespace, sort: "-created_at", limit: "20", ...more });
      for (const pull of (await ask(`?${query}`)).items) found.set(pull.id, pull);
    }
    for (const known of unnamed(found)) {
      known.asked = performance.now();
      const pull = await ask(`/${encodeURIComponent(known.id)}?${new URLSearchParams({ namespace })}`);
      if (pull) found.set(pull.id, pull);
    }
    for (const pull of found.values()) {
      // What a stream tells is newer than any answer that was under way meanwhile.
      if (!streams.has(pull.id)) learn(pull);
    }
    heard();
    offerWaiting();
    follow();
  } catch (error) {
    if (error === LOGGED_OUT) {
      lost("Logged out: reload the page");
      return;
    }
    lost("Reconnecting");
  } finally {
    asking = false;
  }
  const unheard = [...pulls.values()].some((pull) => !FINAL.has(pull.state) && !streams.has(pull.id));
  timer = setTimeout(poll, unheard ? 2000 : 5000);
}

// The form.

const form = document.getElementById("pull-form");

async function startPull(event) {
  event.preventDefault();
  const answer = document.getElementById("pull-answer");
  const input = form.elements.ref;
  const tell = (kind, text) => { answer.dataset.kind = kind; set(answer, text); };
  form.querySelector("button").disabled = true;
  try {
    const url = `/api/v1/pulls?namespace=${encodeURIComponent(namespace)}`;
    const { response, body } = await change("POST", url, { ref: input.value.trim() });
    if (!response.ok) return tell("fail", `✗ ${body.detail ?? body.title}`);
    if (pulls.has(body.id)) learn(body); else addRow(body);
    tell("ok", response.status === 200 ? "✓ This pull is under way already." : "✓ Asked for.");
    input.value = "";
    follow();
  } catch {
    tell("fail", "✗ The server does not answer. Nothing was changed; try again.");
  } finally {
    form.querySelector("button").disabled = false;
  }
}

// The start: the rows that are there are filled by the first answer.

for (const row of rows.rows) {
  const id = row.dataset.pull;
  pulls.set(id, {
    id, row, ref: part(row, "name").title, state: row.dataset.state, platforms: [], created_at: row.querySelector("time").dateTime,
    progress: {},
  });
}
if (form) {
  form.addEventListener("submit", startPull);
  form.querySelector("fieldset").disabled = false;
}
document.addEventListener("visibilitychange", () => { follow(); poll(); });
poll();
