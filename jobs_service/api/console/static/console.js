// What the pages do beyond HTML: live updates, keys, relative times, copying, selecting. Every page works without it.
"use strict";

const root = document.body.dataset.root;
const main = document.getElementById("main");
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// What needs the script is hidden without it.
for (const element of all("[data-copy], #help-button, [data-script]")) element.hidden = false;

const EVENTS = ["state", "submitted", "processing", "completed", "retried", "failed", "released", "snoozed", "deferred",
  "rescued", "cancelled", "redriven", "discarded", "progress", "log", "reset"];

// ---- Live: the page is fetched again when something happened, and what changed of it is replaced in place. ----

const live = {
  button: document.getElementById("live"),
  words: document.getElementById("live-words"),
  badge: document.getElementById("new-jobs"),
  source: null,
  isDue: false,
  isBusy: false,
  unseen: new Set(),
  // The least time between two fetches, in milliseconds.
  pause: 1000,

  get isPaused() {
    return sessionStorage.getItem("paused") === "yes";
  },

  start() {
    const { events, refresh } = main.dataset;
    if (!events && !refresh) return;
    this.button.hidden = false;
    find(".refresh").hidden = true;
    this.button.addEventListener("click", () => this.toggle());
    this.show();
    if (events) this.open(events);
    if (refresh) this.askAgain();
    document.addEventListener("visibilitychange", () => this.flush());
    document.addEventListener("pointerout", () => this.flush());
    document.addEventListener("change", () => this.flush());
  },

  // As often as the last fetched page says, which may be: no more.
  askAgain() {
    setTimeout(() => {
      this.ask();
      if (main.dataset.refresh) this.askAgain();
    }, Number(main.dataset.refresh) * 1000);
  },

  open(url) {
    this.source = new EventSource(url);
    for (const name of EVENTS) {
      this.source.addEventListener(name, (event) => this.notice(name, event));
    }
    this.source.onopen = () => this.lost(false);
    this.source.onerror = () => this.lost(true);
  },

  lost(isLost) {
    this.button.toggleAttribute("data-lost", isLost);
    this.show();
    // What happened meanwhile comes as events, unless the page was not live yet.
    if (!isLost) this.ask();
  },

  notice(name, event) {
    if (name === "submitted" && this.badge) this.count(JSON.parse(event.data).job_id);
    this.ask();
  },

  count(jobId) {
    if (document.getElementById(`job-${jobId}`)) return;
    this.unseen.add(jobId);
    this.badge.hidden = false;
    this.badge.textContent = `${this.unseen.size > 999 ? "999+" : this.unseen.size} new`;
  },

  ask() {
    this.isDue = true;
    this.flush();
  },

  // Nothing moves below the pointer, or while rows are selected.
  get isHeld() {
    return this.isPaused || document.hidden || find(".table:hover") || find("[name=job_id]:checked");
  },

  async flush() {
    if (!this.isDue || this.isBusy || this.isHeld) return;
    this.isDue = false;
    this.isBusy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) location.reload();
      else {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (answer.ok) this.follow(fresh);
        replaceParts(fresh);
      }
    } catch {
      this.isDue = true;
    }
    setTimeout(() => {
      this.isBusy = false;
      this.flush();
    }, this.pause);
  },

  // What has come to its end is not fetched any more: its page says so.
  follow(fresh) {
    const { events = "", refresh = "" } = find("#main", fresh).dataset;
    main.dataset.refresh = refresh;
    if (!events) this.source?.close();
    this.button.hidden = !events && !refresh;
    find(".refresh").hidden = !this.button.hidden;
  },

  toggle() {
    sessionStorage.setItem("paused", this.isPaused ? "no" : "yes");
    this.show();
    this.flush();
  },

  show() {
    const isLost = this.button.hasAttribute("data-lost");
    this.button.setAttribute("aria-pressed", String(!this.isPaused));
    this.words.textContent = this.isPaused ? "Paused" : isLost ? "Reconnecting" : "Live";
  },
};

// Elements with `data-live` and an id are replaced by those of the fresh page. The focus and what is open stay.
function replaceParts(fresh) {
  for (const part of all("[data-live]", fresh)) {
    const old = document.getElementById(part.id);
    if (!old || old.isEqualNode(part) || sameBut(old, part)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    for (const open of all("details[open][id]", old)) {
      const copy = find(`#${CSS.escape(open.id)}`, part);
      if (copy) copy.open = true;
    }
    for (const element of all("[data-copy], [data-script]", part)) element.hidden = false;
    part.classList.add("changed");
    old.replaceWith(document.adoptNode(part));
    if (focused) again(part, focused)?.focus({ preventScroll: true });
  }
  showTimes();
}

function sameBut(old, part) {
  const plain = (element) => {
    const copy = element.cloneNode(true);
    copy.classList.remove("changed");
    if (!copy.className) copy.removeAttribute("class");
    for (const time of all("time", copy)) time.textContent = "";
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

function showTimes() {
  for (const element of all("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000;
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
  const before = button.innerHTML;
  button.textContent = "Copied";
  setTimeout(() => { button.innerHTML = before; }, 1500);
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

let prefix = "";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=checkbox]), textarea, select, [contenteditable]")) return;
  if (find("dialog[open]")) return;
  const key = prefix + event.key;
  prefix = "";
  if (event.key === "g" && key === "g") {
    prefix = "g";
    setTimeout(() => { prefix = ""; }, 1500);
  } else if (key.startsWith("g")) find(`[data-go="${CSS.escape(event.key)}"]`)?.click();
  else if (key === "/") focus(event, find("[data-filter]"));
  else if (key === "j") move(event, 1);
  else if (key === "k") move(event, -1);
  else if (key === "x") currentRow()?.querySelector("[type=checkbox]")?.click();
  else if (key === "." && !live.button?.hidden) live.toggle();
  else if (key === "?") document.getElementById("help").showModal();
});

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
