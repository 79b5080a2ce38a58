// The event streams of all tabs of a browser, in one worker. Without TLS a browser opens six connections to a server, for
// all of its tabs together: streams of their own would leave none for pages.
"use strict";

// The streams that are open at a time. Tabs that watch the same share one; tabs without one look every few seconds.
const MOST = 3;

// A tab that was not heard of for so long has gone without a word. In milliseconds.
const SILENT = 60_000;

// The least time between two messages to a tab, and the pauses before a stream is opened again that was refused.
const PAUSE = 200;
const RETRY_FIRST = 1000;
const RETRY_LAST = 15_000;

const NAMES = ["state", "submitted", "processing", "completed", "retried", "failed", "released", "snoozed", "deferred",
  "rescued", "cancelled", "redriven", "discarded", "progress", "log", "reset"];

// Port -> what its tab watches, the last one that began to at the end.
const tabs = new Map();

// Address -> its stream.
const streams = new Map();

class Stream {
  constructor(url) {
    this.url = url;
    this.state = "lost";
    this.retry = RETRY_FIRST;
    this.submitted = new Set();
    this.open();
  }

  open() {
    this.source = new EventSource(this.url);
    this.source.onopen = () => {
      this.retry = RETRY_FIRST;
      this.become("open");
    };
    this.source.onerror = () => this.failed();
    for (const name of NAMES) this.source.addEventListener(name, (event) => this.notice(name, event));
  }

  // A browser comes back by itself after the end of a connection, and never after an answer with an error.
  failed() {
    if (this.source.readyState !== EventSource.CLOSED) return this.become("lost");
    // Each time: its tabs look at what the page says instead.
    for (const tab of tabs.values()) if (tab.url === this.url) tab.told = null;
    this.become("refused");
    this.timer = setTimeout(() => this.open(), this.retry);
    this.retry = Math.min(this.retry * 2, RETRY_LAST);
  }

  become(state) {
    this.state = state;
    tellStates();
  }

  notice(name, event) {
    if (name === "submitted") this.submitted.add(JSON.parse(event.data).job_id);
    this.telling ??= setTimeout(() => this.flush(), PAUSE);
  }

  flush() {
    this.telling = null;
    for (const [port, tab] of tabs) if (tab.url === this.url) port.postMessage({ submitted: [...this.submitted] });
    this.submitted.clear();
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.telling);
    this.source.close();
  }
}

// Tell each tab what has become of its stream, if that is new.
function tellStates() {
  for (const [port, tab] of tabs) {
    const state = streams.get(tab.url)?.state ?? "none";
    if (state !== tab.told) port.postMessage({ state });
    tab.told = state;
  }
}

// Open the streams of those who began to watch last, and close all others.
function assign() {
  const wanted = [...new Set([...tabs.values()].map((tab) => tab.url).reverse())].slice(0, MOST);
  for (const [url, stream] of streams) {
    if (wanted.includes(url)) continue;
    stream.close();
    streams.delete(url);
  }
  for (const url of wanted) if (!streams.has(url)) streams.set(url, new Stream(url));
  tellStates();
}

// A tab says what it watches, null for nothing, and now and then that it is there.
function heard(port, message) {
  if ("watch" in message) {
    tabs.delete(port);
    if (message.watch) tabs.set(port, { url: message.watch });
    assign();
  }
  if (tabs.has(port)) tabs.get(port).at = Date.now();
}

function forget() {
  for (const [port, tab] of tabs) if (Date.now() - tab.at > SILENT) tabs.delete(port);
  assign();
}

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => heard(port, data);
};
setInterval(forget, SILENT / 2);
