// What every live page shares: numbers and times, the word in the corner, bars, changing calls, copying.
// Every word a server sends becomes text, never markup. Without these modules a page is whole, and stands still.

export const NONE = "–";
export const FINAL = new Set(["succeeded", "failed", "cancelled"]);
export const ICONS = { queued: "○", running: "↓", cancelling: "⊘", succeeded: "✓", failed: "✗", cancelled: "⊘" };
// Seconds without a byte that are worth a word.
export const STALLED_AFTER = 5;

// The server's clock, so that a wrong one here makes no lease look longer than it is.
export const serverStart = Date.parse(document.querySelector("[data-now]").dataset.now);
const localStart = performance.now();
export const now = () => serverStart + performance.now() - localStart;

// Numbers and times, in the server's own words.

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let value = count / 1024, unit = 0;
  while (value >= 1023.5 && unit + 1 < units.length) { value /= 1024; unit += 1; }
  return `${value < 99.95 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]}`;
}

const two = (number) => String(number).padStart(2, "0");

function roughly(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function precisely(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${two(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds % 3600 / 60))} m`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

export function watch(seconds) {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds % 3600 / 60), seconds % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export function utc(time) {
  return `${new Date(time).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export const part = (element, key) => element.querySelector(`[data-k="${key}"]`);

const seconds = (milliseconds) => Math.max(0, Math.floor(milliseconds / 1000));

export function tick() {
  for (const time of document.querySelectorAll("time[data-ago][datetime]")) {
    set(time, `${roughly(seconds(now() - Date.parse(time.dateTime)))} ago`);
  }
  for (const time of document.querySelectorAll("time[data-left]")) {
    const left = seconds(Date.parse(time.dateTime) - now());
    const cell = time.closest(".ends");
    cell.classList.toggle("soon", left > 0 && left < 600);
    set(time, left > 0 ? precisely(left) : "ended");
  }
}

// The word in the corner: whether what is shown is true now.

const live = document.getElementById("live");
const liveWord = live.querySelector("[data-k=word]");
const asOf = live.querySelector("[data-k=as-of]");
let lastHeard = null;

export function heard() {
  lastHeard = new Date();
  attribute(live, "data-live", "on");
  set(liveWord, "Live");
  set(asOf, "");
}

export function lost(word) {
  attribute(live, "data-live", "lost");
  set(liveWord, word);
  set(asOf, lastHeard ? `As of ${lastHeard.toLocaleTimeString()}.` : "");
}

// Nothing will change any more, so nobody has to listen.
export function rest(word) {
  attribute(live, "data-live", "off");
  set(liveWord, word);
  set(asOf, "");
}

// The bar, the amount and the share within an element. Of what may still grow, and of what nobody will know, there is no
// share.
export function drawBar(element, progress, isOver) {
  const isKnown = progress.bytes_total_final;
  const total = isKnown ? progress.bytes_total : 0;
  const tenths = (count) => total ? Math.min(1000, Math.floor(count * 1000 / total)) : 0;
  const reused = tenths(progress.bytes_reused);
  const resumed = Math.min(tenths(progress.bytes_resumed), 1000 - reused);
  const network = Math.min(tenths(progress.bytes_network), 1000 - reused - resumed);
  const bar = part(element, "bar");
  const place = (name, start, width) => {
    const rect = bar.querySelector(`.${name}`);
    if (start !== null) attribute(rect, "x", `${start / 10}%`);
    attribute(rect, "width", `${width / 10}%`);
  };
  place("reused", null, reused);
  place("hatch", null, reused);
  place("resumed", reused, resumed);
  place("network", reused + resumed, network);
  const { bytes_done: done } = progress;
  const least = progress.bytes_total;
  const sofar = isOver ? `${bytes(done)} of unknown` : least ? `${bytes(done)} of ≥ ${bytes(least)}` : NONE;
  const amount = !isKnown ? sofar : !total ? NONE : done >= total ? bytes(total) : `${bytes(done)} of ${bytes(total)}`;
  const percent = Math.floor(tenths(done) / 10);
  if (total) attribute(bar, "aria-valuenow", String(percent)); else bar.removeAttribute("aria-valuenow");
  attribute(bar, "aria-valuetext", amount);
  set(part(element, "amount"), amount);
  set(part(element, "percent"), total ? `${percent} %` : NONE);
}

// Says something aloud to those who do not see the page.
export function say(text) {
  set(document.getElementById("said"), text);
}

// Calls of the API, and pages of the server, by the session of this browser.

const csrf = document.querySelector("meta[name=orlop-csrf]")?.content;

// Changes something; the answer, and what it says.
export async function change(method, url, asked) {
  const headers = { Accept: "application/json" };
  if (asked) headers["Content-Type"] = "application/json";
  if (csrf) headers["Orlop-Csrf"] = csrf;
  const response = await fetch(url, { method, headers, body: asked && JSON.stringify(asked) });
  return { response, body: await response.json() };
}

// A page of the server as it is now, which has escaped everything; nothing where it is gone, or a login in its place.
export async function pageAt(url) {
  const response = await fetch(url, { headers: { Accept: "text/html" } });
  if (response.status >= 500) throw new Error(`status ${response.status}`);
  if (!response.ok || response.redirected) return null;
  const whole = new DOMParser().parseFromString(await response.text(), "text/html");
  // Meant for browsers without what runs here.
  for (const element of whole.querySelectorAll("noscript")) element.remove();
  return whole;
}

// Copying: by the clipboard where the browser allows it, else by selecting the text for the user's own keys.

async function copy(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
    area.className = "unseen";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const icon = button.querySelector("use");
  icon.setAttribute("href", "#i-check");
  button.classList.add("copied");
  say("Copied");
  setTimeout(() => { icon.setAttribute("href", "#i-copy"); button.classList.remove("copied"); }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});
setInterval(() => { if (!document.hidden) tick(); }, 1000);
tick();
