// Keeps the page of one pull live by its event stream, or by asking where there is none. Numbers are written here; what
// has words and buttons comes anew from the server's own page.

import {
  FINAL, ICONS, NONE, STALLED_AFTER, attribute, bytes, change, drawBar, heard, lost, now, pageAt, part, precisely, rest,
  say, set, tick, utc, watch,
} from "./orlop.js";

const page = document.getElementById("pull");
const { pull: id, namespace } = page.dataset;
const query = `?${new URLSearchParams({ namespace })}`;
const place = `/api/v1/pulls/${encodeURIComponent(id)}`;
const head = () => page.querySelector("[data-part=head]");
const total = document.getElementById("total");
const table = document.getElementById("blobs");
const rows = table.tBodies[0];
const BLOB_ICONS = {
  waiting: "○", exists: "=", downloading: "↓", verifying: "◔", committing: "◕", done: "✓", failed: "✗", skipped: "⊘",
};

// What is known: of the pull, once the server has told the whole of it, and of its blobs by digest.
let pull = { ref: head().querySelector("h1").textContent, state: head().dataset.state, progress: null };
let blobs = new Map();

// Drawing. Each value has its cell; what has not changed is not written.

function draw() {
  const { state, progress } = pull;
  const runs = state === "running";
  attribute(head(), "data-state", state);
  attribute(total, "data-state", state);
  set(part(head(), "icon"), ICONS[state] ?? "");
  set(part(head(), "word"), state);
  set(part(head(), "phase"), runs && pull.phase || "");
  for (const blob of blobs.values()) drawBlob(blob);
  if (!progress) return;
  drawBar(total, progress, FINAL.has(pull.state));
  set(part(total, "rate"), runs ? `${bytes(progress.rate_bps)}/s` : NONE);
  set(part(total, "eta"), runs && progress.eta_seconds != null ? watch(progress.eta_seconds) : NONE);
  set(part(total, "blobs"), blobsInWords(progress));
  set(document.getElementById("silence"), runs ? silence(progress) : "");
  tellQuarters(progress);
}

function blobsInWords({ blobs_total: total, blobs_done: done, bytes_total_final: known }) {
  if (!total) return NONE;
  return known ? `${done} of ${total} ${total === 1 ? "blob" : "blobs"}` : `${done} of ${total} known so far`;
}

function silence({ waiting_until: until, stalled_seconds: seconds }) {
  if (until) return `Everything waits until ${utc(until)}.`;
  return seconds > STALLED_AFTER ? `Nothing has arrived for ${precisely(seconds)}.` : "";
}

const rowOf = (digest) => rows.querySelector(`[data-blob="${CSS.escape(digest)}"]`);

function drawBlob(blob) {
  const row = rowOf(blob.digest);
  if (!row) return;
  attribute(row, "data-state", blob.state);
  set(part(row, "icon"), BLOB_ICONS[blob.state] ?? "");
  set(part(row, "word"), blob.state);
  set(part(row, "why"), blob.error?.detail ?? blob.wait?.reason ?? blob.reason ?? "");
  set(part(row, "unpack"), unpackInWords(blob));
  const reused = blob.state === "exists" ? blob.size : 0;
  drawBar(row, {
    bytes_total: blob.size, bytes_total_final: true, bytes_done: blob.offset, bytes_reused: reused, bytes_resumed: 0,
    bytes_network: blob.offset - reused,
  }, false);
}

function unpackInWords({ unpack, size }) {
  switch (unpack?.state) {
    case undefined: return "";
    case "waiting": return "to be unpacked";
    case "unpacking": return `unpacking, ${Math.floor(unpack.offset * 100 / (size || 1))} %`;
    case "committing": return "unpacked, going to disk";
    case "exists": return "was unpacked before";
    default: return "unpacked";
  }
}

// Who listens hears of each quarter once, and of no number between.
let quarter = null;

function tellQuarters({ bytes_total: total, bytes_total_final: known, bytes_done: done }) {
  if (!known || !total) return;
  const reached = Math.floor(done * 4 / total);
  if (quarter !== null && reached > quarter && reached < 4) say(`${reached * 25} % of ${pull.ref}`);
  quarter = reached;
}

// The log: what the server has kept of what was said, and what is said while this page is open; the last of it.

const LINES = 200;
const log = document.getElementById("log");
// The newest line of the server's own that is shown, so that a picture that comes again repeats none.
let toldUntil = log.lastElementChild?.firstElementChild.dateTime ?? "";

function addLine(level, at, message) {
  const line = document.createElement("li");
  line.dataset.level = level;
  const time = document.createElement("time");
  time.dateTime = new Date(at).toISOString();
  time.textContent = utc(at);
  line.append(time, ` ${level === "warn" ? "warning: " : ""}${message}`);
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  log.append(line);
  while (log.children.length > LINES) log.firstElementChild.remove();
  log.hidden = false;
  document.getElementById("no-log").hidden = true;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function takeLine({ level, at, message }) {
  if (at <= toldUntil) return;
  toldUntil = at;
  addLine(level, at, message);
}

// Taking over what the server says.

// The whole picture.
function take(fresh) {
  const before = pull.state;
  pull = fresh;
  fresh.log.forEach(takeLine);
  blobs = new Map(fresh.blobs.map((blob) => [blob.digest, blob]));
  if (before !== pull.state) moved();
  else if (fresh.blobs.some((blob) => isMissing(blob))) refresh();
  draw();
}

function takeBlob(blob) {
  blobs.set(blob.digest, blob);
  if (isMissing(blob)) refresh();
  drawBlob(blob);
}

function takePhase(change) {
  const before = pull;
  // A new attempt begins with nothing known.
  if (before.attempt !== change.attempt) blobs.clear();
  pull = { ...before, ...change };
  addLine("info", now(), pull.phase ? `${pull.state}, attempt ${pull.attempt}: ${pull.phase}` : pull.state);
  if (before.state !== pull.state) moved(); else refresh();
  draw();
}

function takeEnd(end) {
  const before = pull.state;
  pull = { ...pull, ...end };
  addLine(end.error ? "warn" : "info", now(), end.error ? `${end.state}: ${end.error.detail}` : end.state);
  stop();
  rest("Ended");
  if (before !== pull.state) moved(); else refresh();
  draw();
}

function moved() {
  say(`${pull.ref}: ${pull.state}`);
  if (FINAL.has(pull.state)) tell("", "");
  refresh();
}

// A blob without a row; a page that is full has no room for any.
const isMissing = (blob) => !table.hasAttribute("data-full") && !rowOf(blob.digest);

// The server's page once more: its parts take the place of those here, and new rows come between the others. One at a
// time, and not in a flood.

const PAUSE = 500;
let refreshing = false;
let again = false;

async function refresh() {
  again = true;
  if (refreshing) return;
  refreshing = true;
  while (again && !document.hidden) {
    again = false;
    try {
      const whole = await pageAt(`/pulls/${encodeURIComponent(id)}${query}`);
      if (whole) swap(whole);
    } catch {
      // The server is away; what it would have said is asked for until it answers.
      again = true;
    }
    await new Promise((go) => setTimeout(go, again ? 2 * PAUSE : PAUSE));
  }
  refreshing = false;
}

function swap(whole) {
  for (const old of page.querySelectorAll("[data-part]")) {
    const fresh = whole.querySelector(`[data-part="${old.dataset.part}"]`);
    if (!fresh) continue;
    const focused = old.contains(document.activeElement);
    old.replaceWith(document.adoptNode(fresh));
    // Whoever was on a button that is gone is not sent back to the top.
    if (focused) (fresh.querySelector("button, a") ?? document.getElementById("main")).focus({ preventScroll: true });
  }
  swapRows(whole.getElementById("blobs"));
  allow();
  draw();
  tick();
}

function swapRows(fresh) {
  table.toggleAttribute("data-full", fresh.hasAttribute("data-full"));
  const listed = new Set([...fresh.tBodies[0].rows].map((row) => row.dataset.blob));
  for (const row of [...rows.rows]) {
    if (!listed.has(row.dataset.blob) && !blobs.has(row.dataset.blob)) row.remove();
  }
  let next = rows.firstElementChild;
  for (const row of [...fresh.tBodies[0].rows]) {
    const known = rowOf(row.dataset.blob);
    if (known) {
      set(part(known, "why"), part(row, "why").textContent);
      next = known.nextElementSibling;
    } else {
      rows.insertBefore(document.adoptNode(row), next);
    }
  }
  table.classList.toggle("empty", !rows.rows.length);
  document.getElementById("no-blobs").hidden = rows.rows.length > 0;
}

// The stream. A hidden page holds none: a browser opens six connections to one host, over all its tabs.

const WAIT = 2000;
const WAIT_AFTER_REFUSAL = 10000;
let stream = null;
let refusedUntil = 0;
let timer = 0;

function stop() {
  stream?.close();
  stream = null;
}

function follow() {
  if (stream || document.hidden || FINAL.has(pull.state) || performance.now() < refusedUntil) return;
  const opened = stream = new EventSource(`${place}/events${query}`);
  const on = (name, take) => opened.addEventListener(name, (event) => {
    if (stream !== opened) return;
    heard();
    take(JSON.parse(event.data));
  });
  opened.addEventListener("open", heard);
  on("snapshot", take);
  on("progress", (progress) => { pull.progress = progress; draw(); });
  on("blob", takeBlob);
  on("phase", takePhase);
  on("log", takeLine);
  on("reset", ({ reason }) => {
    addLine("warn", now(), `what was said meanwhile is lost (${reason}); this is how it stands now`);
    refresh();
  });
  on("end", takeEnd);
  opened.addEventListener("error", () => {
    if (stream !== opened) return;
    lost("Reconnecting…");
    // A stream that broke comes again by itself, from the last event on. One that was refused does not.
    if (opened.readyState !== EventSource.CLOSED) return;
    stop();
    refusedUntil = performance.now() + WAIT_AFTER_REFUSAL;
    timer = setTimeout(look, WAIT);
  });
}

// How the pull stands, asked for: where there is no stream, and when the page is seen again.
async function look() {
  clearTimeout(timer);
  if (document.hidden || stream) return;
  try {
    const response = await fetch(`${place}${query}`, { headers: { Accept: "application/json" } });
    if (response.status === 401) return lost("Logged out: reload the page");
    if (response.status === 404) return lost("Gone from the history");
    if (!response.ok) throw new Error(`status ${response.status}`);
    take(await response.json());
    if (FINAL.has(pull.state)) return rest("Ended");
    heard();
    follow();
  } catch {
    lost("Reconnecting…");
  }
  clearTimeout(timer);
  if (!stream) timer = setTimeout(look, WAIT);
}

// The buttons.

function allow() {
  for (const button of page.querySelectorAll("[data-do]")) button.disabled = false;
}

const DEEDS = {
  cancel: { method: "DELETE", url: `${place}${query}`, done: "✓ It stops." },
  retry: { method: "POST", url: `${place}/retry${query}`, done: "✓ It goes on." },
};

let acting = false;
const answer = document.getElementById("answer");

function tell(kind, text) {
  answer.dataset.kind = kind;
  set(answer, text);
}

async function act({ method, url, done }) {
  if (acting) return;
  acting = true;
  tell("", "");
  try {
    const { response, body } = await change(method, url);
    if (!response.ok) tell("fail", `✗ ${body.detail ?? body.title}`); else tell("ok", done);
    // Without a stream nobody else would tell.
    look();
  } catch {
    tell("fail", "✗ The server does not answer; try again.");
  } finally {
    acting = false;
  }
}

page.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) act(DEEDS[button.dataset.do]);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return stop();
  refusedUntil = 0;
  look();
  if (again) refresh();
});
// A lease that is renewed ends later than the page says.
setInterval(() => { if (!document.hidden && !FINAL.has(pull.state)) refresh(); }, 60000);
allow();
if (FINAL.has(pull.state)) rest("Ended"); else follow();
