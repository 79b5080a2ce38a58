// What the pages do beyond HTML: live updates, keys, relative times, copying, selecting. Every page works without it.
"use strict";

const main = document.getElementById("main");

// Where keys are text.
const FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// What needs the script is hidden without it.
for (const element of all("[data-copy], #help-button, [data-script]")) element.hidden = false;

// A browser that keeps nothing of a page has no storage, and says so by an error.
const store = {
  get(storage, name) {
    try {
      return window[storage].getItem(name);
    } catch {
      return null;
    }
  },

  set(storage, name, value) {
    try {
      window[storage].setItem(name, value);
    } catch {
      // It holds for this page then.
    }
  },
};

// A notice is shown once, and not again by a reload.
if (/[?&]notice=/.test(location.search)) {
  const url = new URL(location.href);
  url.searchParams.delete("notice");
  url.searchParams.delete("n");
  history.replaceState(history.state, "", url);
}

// ---- Live: the page is fetched again when something happened, and what changed of it is replaced in place. ----

// In milliseconds: the least time between two fetches, the pause after one that failed, how long one may take, how often a
// page without a stream of events is fetched, and how often a tab tells the streams that it is there.
const PAUSE = 1000;
const PAUSE_AFTER_ERROR = 5000;
const MOST_PATIENCE = 20_000;
const POLL = 3000;
const SIGN_OF_LIFE = 20_000;

const live = {
  button: document.getElementById("live"),
  words: document.getElementById("live-words"),
  action: document.getElementById("live-action"),
  badge: document.getElementById("new-jobs"),
  outage: document.getElementById("outage"),
  events: main.dataset.events,
  refresh: Number(main.dataset.refresh) * 1000,
  isPaused: store.get("sessionStorage", "paused") === "yes",
  isDue: false,
  isBusy: false,
  isLost: false,
  unseen: new Set(),

  start() {
    if (!this.button || (!this.events && !this.refresh)) return;
    this.button.hidden = false;
    find(".refresh").hidden = true;
    this.button.addEventListener("click", () => this.toggle());
    this.show();
    this.watch();
    this.repeat();
    document.addEventListener("visibilitychange", () => this.watch());
    for (const name of ["pointerout", "change", "focusout", "selectionchange"]) {
      document.addEventListener(name, () => this.flush());
    }
    addEventListener("pagehide", () => this.port?.postMessage({ watch: null }));
    addEventListener("pageshow", (event) => event.persisted && this.watch());
  },

  // Nobody sees a hidden page: it needs no stream, and is fetched when it is seen again.
  watch() {
    if (this.events) this.connect();
    this.port?.postMessage({ watch: document.hidden ? null : this.events });
    if (this.isSeenAgain && !document.hidden) this.ask();
    this.isSeenAgain = document.hidden;
  },

  connect() {
    if (this.port || this.timer) return;
    if (!window.SharedWorker) return this.poll(true);
    this.port = new SharedWorker(document.body.dataset.streams).port;
    this.port.onmessage = ({ data }) => this.hear(data);
    setInterval(() => this.port.postMessage({}), SIGN_OF_LIFE);
  },

  hear({ state, submitted }) {
    if (state) {
      this.poll(state === "none");
      this.lost(state === "lost" && this.wasOpen);
      this.wasOpen ||= state === "open";
    }
    if (submitted) this.count(submitted);
    // Also when a stream was opened: what happened since the page was made, or while there was none, came by no event.
    if (state !== "lost") this.ask();
  },

  poll(isNeeded) {
    clearInterval(this.timer);
    this.timer = isNeeded ? setInterval(() => this.ask(), POLL) : null;
  },

  lost(isLost) {
    this.isLost = isLost;
    this.show();
  },

  // Jobs that have no row here.
  count(jobIds) {
    if (!this.badge) return;
    for (const jobId of jobIds) if (!document.getElementById(`job-${jobId}`)) this.unseen.add(jobId);
    this.badge.hidden = !this.unseen.size;
    this.badge.textContent = `${this.unseen.size > 999 ? "999+" : this.unseen.size} new`;
  },

  ask() {
    this.isDue = true;
    this.flush();
  },

  // Nothing moves below the pointer, or while rows are selected.
  get isHeld() {
    const isPointedAt = matchMedia("(hover: hover)").matches && find(".table:hover");
    return this.isPaused || document.hidden || isPointedAt || find("[name=job_id]:checked");
  },

  async flush() {
    if (!this.isDue || this.isBusy || this.isHeld) return;
    this.isDue = false;
    this.isBusy = true;
    const pause = await this.fetch();
    setTimeout(() => {
      this.isBusy = false;
      this.flush();
    }, pause);
  },

  // Returns the pause before the next time.
  async fetch() {
    try {
      const signal = AbortSignal.timeout(MOST_PATIENCE);
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      return this.take(answer, page);
    } catch {
      this.failed("The service does not answer.");
      return PAUSE_AFTER_ERROR;
    }
  },

  take(answer, page) {
    const isElsewhere = answer.redirected && new URL(answer.url).pathname !== location.pathname;
    if (answer.status === 429 || answer.status >= 500) {
      this.failed(page.querySelector("h1, #outage-title")?.textContent ?? "The service does not answer.");
      return Math.max(PAUSE_AFTER_ERROR, Number(answer.headers.get("Retry-After")) * 1000);
    }
    // Signed out, or the job was deleted: the browser shows what there is. And so when an outage is over.
    if (isElsewhere || !answer.ok || "problem" in main.dataset) location.reload();
    else if (!this.isHeld) this.replace(page);
    else this.isDue = true;
    return PAUSE;
  },

  replace(page) {
    this.outage.hidden = true;
    this.seenAt = new Date();
    const rows = all("tr[id^=job-]", page).map((row) => row.id.slice("job-".length));
    this.count(rows);
    replaceParts(page);
    this.follow(page.getElementById("main").dataset);
  },

  // What has come to its end is live no more: its page says so.
  follow({ events, refresh }) {
    this.refresh = Number(refresh) * 1000;
    if (this.refresh && !this.isRepeating) this.repeat();
    if (events !== this.events) {
      this.events = events;
      if (!events) this.poll(false);
      this.watch();
    }
    this.button.hidden = !events && !refresh;
    find(".refresh").hidden = !this.button.hidden;
  },

  // As often as the page that was fetched last says.
  repeat() {
    this.isRepeating = Boolean(this.refresh);
    if (!this.refresh) return;
    setTimeout(() => {
      this.ask();
      this.repeat();
    }, this.refresh);
  },

  failed(what) {
    this.isDue = true;
    if ("problem" in main.dataset) return;
    const words = `${what.trim()} Every accepted job is kept. Below is what was seen at ${clock(this.seenAt)}.`;
    if (this.outage.textContent !== words) this.outage.textContent = words;
    this.outage.hidden = false;
  },

  toggle() {
    this.isPaused = !this.isPaused;
    store.set("sessionStorage", "paused", this.isPaused ? "yes" : "no");
    this.show();
    this.flush();
  },

  show() {
    this.button.toggleAttribute("data-lost", this.isLost && !this.isPaused);
    this.button.toggleAttribute("data-paused", this.isPaused);
    this.words.textContent = this.isPaused ? "Paused" : this.isLost ? "Reconnecting" : "Live";
    this.action.textContent = this.isPaused ? ": resume updates" : ": pause updates";
  },
};

live.seenAt = new Date();

function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

// Elements with `data-live` and an id are replaced by those of the fresh page. The focus, what is open, and how far parts
// are scrolled stay. A part is left alone while somebody types into it or selects its text.
function replaceParts(fresh) {
  const kept = new Set(all("[data-live]", fresh).map((part) => part.id));
  for (const part of all("[data-live]", fresh)) {
    const old = document.getElementById(part.id);
    if (!old || isInUse(old) || old.isEqualNode(part) || sameBut(old, part)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const scrolled = all(".table, pre", old).map((element) => [element.scrollLeft, element.scrollTop]);
    for (const details of all("details[id]", old)) {
      const copy = find(`#${CSS.escape(details.id)}`, part);
      if (copy) copy.open = details.open;
    }
    for (const element of all("[data-copy], [data-script]", part)) element.hidden = false;
    part.classList.add("changed");
    old.replaceWith(document.adoptNode(part));
    all(".table, pre", part).forEach((element, at) => element.scrollTo(...(scrolled[at] ?? [0, 0])));
    if (focused) again(part, focused)?.focus({ preventScroll: true });
  }
  for (const row of all("tr[data-live][id]")) if (!kept.has(row.id)) leaveList(row);
  showTimes();
  showSelected();
}

// A row that the fresh list does not have shows what was, and says so.
function leaveList(row) {
  if (row.hasAttribute("data-left")) return;
  row.setAttribute("data-left", "");
  const note = document.createElement("span");
  note.className = "chip";
  note.textContent = "not on this list any more";
  row.cells[0].append(" ", note);
}

function isInUse(part) {
  const selection = getSelection();
  const isSelected = !selection.isCollapsed && selection.containsNode(part, true);
  const isTyped = all("input:not([type=checkbox], [type=radio]), textarea", part).some(
    (field) => field.value !== field.defaultValue,
  );
  return isSelected || isTyped || (part.contains(document.activeElement) && document.activeElement.matches(FIELDS));
}

function sameBut(old, part) {
  const plain = (element) => {
    const copy = element.cloneNode(true);
    copy.classList.remove("changed");
    if (!copy.className) copy.removeAttribute("class");
    for (const time of all("time[data-ago]", copy)) time.textContent = "";
    for (const scripted of all("[data-copy], [data-script]", copy)) scripted.hidden = false;
    for (const details of all("details", copy)) details.open = false;
    return copy;
  };
  return plain(old).isEqualNode(plain(part));
}

function again(part, focused) {
  if (focused.id) return document.getElementById(focused.id);
  const same = all(focused.tagName, part).filter((element) => element.textContent === focused.textContent);
  return same[0] ?? find("a, button", part);
}

// ---- Times ----

const UNITS = [["s", 1, 60], ["min", 60, 3600], ["h", 3600, 86400], ["d", 86400, Infinity]];

// How far this clock is behind the service's, in milliseconds. Less is the way that the page took.
const behind = Date.parse(document.body.dataset.now) - Date.now();
const skew = Math.abs(behind) > 5000 ? behind : 0;

function showTimes() {
  for (const element of all("time[data-ago]")) {
    const seconds = (Date.now() + skew - Date.parse(element.dateTime)) / 1000;
    const [unit, size] = UNITS.find(([, , limit]) => Math.abs(seconds) < limit);
    const text = `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
    const words = Math.abs(seconds) < 1 ? "now" : seconds > 0 ? `${text} ago` : `in ${text}`;
    if (element.textContent !== words) element.textContent = words;
  }
}

// ---- Copying and selecting ----

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await copy(button.dataset.copy);
  if (button.dataset.was) return;
  const before = [...button.childNodes];
  button.dataset.was = "copied";
  button.textContent = "Copied";
  setTimeout(() => {
    button.replaceChildren(...before);
    delete button.dataset.was;
  }, 1500);
});

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without TLS there is no clipboard API.
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.matches("[data-select-all]")) {
    for (const other of all("[name=job_id]")) other.checked = box.checked;
  }
  if (box.matches("[data-select-all], [name=job_id]")) showSelected();
  if (box.matches("[data-submit]")) box.form.requestSubmit();
});

function showSelected() {
  for (const box of all("[name=job_id]")) box.closest("tr").toggleAttribute("data-selected", box.checked);
  const count = all("[name=job_id]:checked").length;
  for (const element of all("[data-selected-count]")) element.textContent = String(count);
  for (const element of all("[data-needs-selection]")) element.disabled = !count;
}

// ---- Forms ----

// A second click on a button sends nothing twice.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-once]") || event.submitter?.formMethod === "get") return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of all("[data-sent]")) delete form.dataset.sent;
});

// How long an action takes at the rate that is written in a field.
document.addEventListener("input", (event) => {
  const output = find(`output[data-jobs][for="${CSS.escape(event.target.id)}"]`);
  const seconds = Number(output?.dataset.jobs) / Number(event.target.value);
  if (output && Number.isFinite(seconds)) output.textContent = duration(seconds);
});

function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const place = UNITS.findIndex(([, , limit]) => Math.round(seconds) < limit);
  const [unit, size] = UNITS[place];
  const rest = place && Math.floor((Math.round(seconds) % size) / UNITS[place - 1][1]);
  return `${Math.floor(Math.round(seconds) / size)} ${unit}${rest ? ` ${rest} ${UNITS[place - 1][0]}` : ""}`;
}

// ---- Keys. None of them changes anything at the server. ----

// When `g` was pressed.
let prefixAt = -Infinity;

const keysOn = document.getElementById("keys-on");
keysOn.checked = store.get("localStorage", "keys") !== "off";
keysOn.addEventListener("change", () => store.set("localStorage", "keys", keysOn.checked ? "on" : "off"));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (find("dialog[open]")) return;
  if (event.key === "Escape") return leave(event.target);
  if (!keysOn.checked || event.target.matches(FIELDS)) return;
  // `g` and a letter, pressed within a moment.
  const isSecond = event.timeStamp - prefixAt < 1500;
  prefixAt = -Infinity;
  if (isSecond) find(`[data-go="${CSS.escape(event.key)}"]`)?.click();
  else if (event.key === "g") prefixAt = event.timeStamp;
  else if (event.key === "/") focus(event, find("[data-filter]"));
  else if (event.key === "j") move(event, 1);
  else if (event.key === "k") move(event, -1);
  else if (event.key === "x") currentRow()?.querySelector("[type=checkbox]")?.click();
  else if (event.key === "." && live.button && !live.button.hidden) live.toggle();
  else if (event.key === "?") document.getElementById("help").showModal();
});

// Leave a filter, or unselect everything.
function leave(target) {
  if (target.matches("[data-filter]")) return target.blur();
  for (const box of all("[name=job_id]:checked, [data-select-all]:checked")) box.checked = false;
  showSelected();
  live.flush();
}

function focus(event, element) {
  if (!element) return;
  event.preventDefault();
  element.focus();
}

function currentRow() {
  return document.activeElement?.closest("tr");
}

function move(event, step) {
  const links = all("tr [data-open]");
  const at = links.findIndex((link) => link.closest("tr") === currentRow());
  focus(event, links[Math.min(Math.max(at + step, 0), links.length - 1)]);
}

document.getElementById("help-button")?.addEventListener("click", () => document.getElementById("help").showModal());

showTimes();
setInterval(showTimes, 5000);
showSelected();
live.start();

// ---- A form beside which the server shows something that it makes of what is typed. ----

const typedForm = find("form[data-shows]");
let typing = 0;

typedForm?.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => showTyped(typedForm.dataset.shows), 400);
});

async function showTyped(id) {
  const turn = typing;
  const body = new URLSearchParams(new FormData(typedForm));
  body.set("do", "show");
  const answer = await fetch(typedForm.action, { method: "POST", body, headers: { Accept: "text/html" } });
  if (!answer.ok || turn !== typing) return;
  const part = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
  for (const element of all("[data-copy]", part)) element.hidden = false;
  document.getElementById(id).replaceWith(document.adoptNode(part));
}
