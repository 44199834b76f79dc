// The page for people. It asks /api/status every two seconds, remembers the answers, and shows what they come to. Whatever
// a client said of itself reaches the document as text only.
"use strict";
{
  const POLL_MS = 2000;
  // Half an hour of samples.
  const SAMPLES_MAX = 900;
  const POINTS_MAX = 240;
  const WINDOW_MS = 300_000;
  const RECENT_MS = 10_000;
  const TIERS = { host: "host memory", nvme: "NVMe", remote: "remote" };
  const samples = [];
  let serial = 0;
  let chosen = "";
  let failed = "";

  // ---- small things

  const byId = (id) => document.getElementById(id);

  /** An element with attributes and children; strings become text. */
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "style") Object.assign(element.style, value);
      else element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  function drawn(name, attributes) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  const count = (value) =>
    value >= 1e9 ? `${(value / 1e9).toFixed(2)} G`
      : value >= 1e6 ? `${(value / 1e6).toFixed(2)} M`
        : value >= 1e5 ? `${(value / 1e3).toFixed(0)} k`
          : value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);

  function size(bytes) {
    let [value, unit] = [bytes, 0];
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
    return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  }

  const speed = (bytes) => `${size(bytes)}/s`;
  const percent = (part) => `${(100 * part).toFixed(1)} %`;

  function time(seconds) {
    if (seconds === null) return "–";
    if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
    if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
    if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
    return `${Math.floor(minutes / 1440)} d ${Math.floor(minutes / 60) % 24} h`;
  }

  // ---- what a sample comes to

  const tenants = (sample) => sample.status.tenants.filter((each) => !chosen || each.tenant === chosen);
  const sum = (sample, number) => tenants(sample).reduce((total, each) => total + (number(each) || 0), 0);
  const counted = (name) => (sample) => sum(sample, (each) => each.counters[name]);
  const occupied = (name) => (sample) => sum(sample, (each) => each.occupancy[name]);
  const ofTier = (tier, name) => (sample) =>
    sum(sample, (each) => each.tiers.filter((it) => it.tier === tier).reduce((total, it) => total + it[name], 0));
  const left = (tier) => (sample) =>
    sum(sample, (each) => each.tiers.filter((it) => it.tier === tier)
      .reduce((total, it) => total + Object.values(it.removed_blocks).reduce((a, b) => a + b, 0), 0));

  /** How fast a number grows, each second. */
  const rate = (number) => (before, after) =>
    Math.max(0, number(after) - number(before)) / Math.max(1e-3, (after.at - before.at) / 1000);

  /** The oldest sample that is at most so old. */
  const since = (ms) => samples.find((each) => each.at >= samples.at(-1).at - ms);

  const hitsOf = (tier) => (tier ? ofTier(tier, "hit_blocks") : counted("hit_blocks"));

  /** Blocks hit for each that was looked up, between two samples; none if there were none. */
  const hitRatio = (tier) => (before, after) => {
    const asked = counted("lookup_blocks")(after) - (before ? counted("lookup_blocks")(before) : 0);
    const hit = hitsOf(tier)(after) - (before ? hitsOf(tier)(before) : 0);
    return asked > 0 ? hit / asked : null;
  };

  /** The bound below which this part of a histogram's growth lies. */
  const quantile = (name, part) => (before, after) => {
    const counts = [];
    for (const [sample, sign] of [[after, 1], [before, -1]]) {
      for (const each of sample ? tenants(sample) : []) {
        each[name].counts.forEach((number, i) => { counts[i] = (counts[i] || 0) + sign * number; });
      }
    }
    const total = counts.reduce((a, b) => a + b, 0);
    if (total <= 0) return null;
    const bounds = after.status.bounds_seconds[name];
    let below = 0;
    for (let i = 0; i < counts.length; i += 1) {
      below += counts[i];
      if (below >= part * total) return bounds[Math.min(i, bounds.length - 1)];
    }
    return bounds.at(-1);
  };

  /** What the last minutes say, or everything since the daemon's start where they say nothing. */
  function recentOrAll(value) {
    const recent = value(since(WINDOW_MS), samples.at(-1));
    return recent === null
      ? { value: value(null, samples.at(-1)), when: "since the start" }
      : { value: recent, when: "last 5 minutes" };
  }

  // ---- charts

  /** A value for each pair of neighbouring samples; of long histories only so many. */
  function points(value) {
    const step = Math.max(1, Math.ceil(samples.length / POINTS_MAX));
    const kept = samples.filter((each, i) => each.serial % step === 0 || i === samples.length - 1);
    return kept.slice(1).map((after, i) => [after.at, value(kept[i], after)]);
  }

  function chart(series, format, { most = 0, small = false } = {}) {
    const lines = series.map((each) => ({ ...each, points: points(each.value) }));
    const values = lines.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null);
    const top = most || Math.max(...values, 0) * 1.1 || 1;
    const end = samples.at(-1).at;
    const span = Math.max(60_000, end - samples[0].at);
    const [width, height] = [600, 100];
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const y of small ? [height] : [0, height / 2, height]) {
      svg.append(drawn("line", { x1: 0, x2: width, y1: y, y2: y, stroke: "var(--line)", "vector-effect": "non-scaling-stroke" }));
    }
    for (const line of lines) {
      const place = ([at, value]) => [width - ((end - at) / span) * width, height - Math.min(1, value / top) * height];
      let piece = [];
      const draw = () => {
        const path = piece.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
        const shape = { fill: "none", "vector-effect": "non-scaling-stroke" };
        if (piece.length > 1 && line.filled) {
          const closed = `${path}L${piece.at(-1)[0].toFixed(1)} ${height}L${piece[0][0].toFixed(1)} ${height}Z`;
          svg.append(drawn("path", { d: closed, fill: line.colour, "fill-opacity": 0.18 }));
        }
        if (piece.length) {
          const d = piece.length > 1 ? path : `${path}h0.01`;
          const round = piece.length > 1 ? "butt" : "round";
          svg.append(drawn("path", { ...shape, d, stroke: line.colour, "stroke-width": piece.length > 1 ? 2 : 4, "stroke-linecap": round, "stroke-linejoin": "round" }));
        }
        piece = [];
      };
      for (const point of line.points) {
        if (point[1] === null) draw();
        else piece.push(place(point));
      }
      draw();
    }
    const frame = make("div", { class: small ? "chart small" : "chart" }, svg);
    if (!small) frame.append(make("span", { class: "top" }, format(top)));
    if (!values.length) frame.append(make("span", { class: "none" }, samples.length < 3 ? "the history begins now" : "nothing in this time"));
    return { frame, span, lines };
  }

  function chartCard(id, title, series, format, options) {
    const { frame, span, lines } = chart(series, format, options);
    const legend = make("div", { class: "legend" });
    for (const line of lines) {
      const last = line.points.findLast(([, value]) => value !== null);
      legend.append(make("span", {}, make("i", { style: { background: line.colour } }), `${line.name} `,
        make("b", {}, last ? format(last[1]) : "–")));
    }
    const spoken = `${title}: ${legend.textContent}`;
    return make("section", { class: "card", id, role: "img", "aria-label": spoken }, make("h2", {}, title), frame,
      make("div", { class: "axis" }, make("span", {}, `${Math.round(span / 60_000)} min ago`), make("span", {}, "now")), legend);
  }

  // ---- parts of the page

  function header() {
    const { status } = samples.at(-1);
    const draining = status.tenants.some((each) => each.draining);
    const [text, kind] = failed ? ["not answering", "bad"]
      : !status.ready ? ["not ready", "warn"] : draining ? ["draining", "warn"] : ["serving", "good"];
    byId("state").textContent = text;
    byId("state").className = `pill ${kind}`;
    byId("about").textContent = `version ${status.version} · up ${time(status.uptime_seconds)}`;
    byId("age").textContent = `${failed ? "last answer" : "updated"} ${new Date(samples.at(-1).at).toLocaleTimeString("en-GB")}`;
    byId("choose").hidden = status.tenants.length < 2;
    const names = ["", ...status.tenants.map((each) => each.tenant)];
    const select = byId("tenant");
    if ([...select.options].map((each) => each.value).join("\n") !== names.join("\n")) {
      select.replaceChildren(...names.map((name) => make("option", { value: name }, name || "all")));
      chosen = names.includes(chosen) ? chosen : "";
      select.value = chosen;
    }
  }

  /** What wants somebody's eyes now. */
  function attention() {
    const { status } = samples.at(-1);
    const notes = [];
    const say = (kind, text) => notes.push(make("div", { class: kind }, text));
    if (failed) say("bad", `The daemon does not answer: ${failed}. What follows is its last answer.`);
    if (!status.ready) say("warn", `Not ready: ${status.waiting_for}.`);
    for (const tenant of status.tenants) {
      const of = status.tenants.length > 1 ? `${tenant.tenant}: ` : "";
      if (tenant.draining) say("warn", `${of}takes no more stores: it drains.`);
      for (const device of tenant.devices) {
        if (device.state === "lost") say("bad", `${of}${device.directory} is out of service: ${device.lost_reason || "see the log"}.`);
        if (device.writes_suspended) say("warn", `${of}writing to ${device.directory} has failed and is tried again later.`);
      }
      for (const tier of tenant.tiers) {
        if (tier.tier === "remote" && !["serving", "draining"].includes(tier.state)) say("warn", `${of}remote tier: ${tier.state}.`);
      }
      if (tenant.occupancy.slots_quarantined + tenant.occupancy.leases_quarantined > 0) {
        say("warn", `${of}${count(tenant.occupancy.slots_quarantined + tenant.occupancy.leases_quarantined)} blocks wait for proof that their engine is dead.`);
      }
      if (tenant.lease_oldest_seconds > 60) say("warn", `${of}the oldest lease is ${time(tenant.lease_oldest_seconds)} old: does its engine hang?`);
    }
    byId("now").replaceChildren(...notes);
  }

  function tile(id, title, value, ...notes) {
    return make("div", { class: "card tile", id }, make("span", { class: "soft" }, title), make("b", {}, value),
      ...notes.map((note) => make("small", { class: "soft", style: { display: "block" } }, note)));
  }

  function tiles() {
    const last = samples.at(-1);
    const now = (number) => rate(number)(since(RECENT_MS), last);
    const ratio = recentOrAll(hitRatio());
    const p50 = recentOrAll(quantile("lookups", 0.5));
    const p99 = recentOrAll(quantile("lookups", 0.99));
    const tokens = counted("hit_tokens");
    byId("tiles").replaceChildren(
      tile("hit-ratio", "Hit ratio of blocks", ratio.value === null ? "–" : percent(ratio.value), ratio.value === null ? "nothing was looked up yet" : ratio.when),
      tile("tokens", "Tokens from the cache", count(tokens(last)), `${count(now(tokens))} /s now`),
      tile("lookups", "Look-ups", `${count(now(counted("lookups")))} /s`, `${count(counted("lookups")(last))} since the start`),
      tile("latency", "Memory look-up, p99", time(p99.value), p50.value === null ? "nothing was looked up yet" : `p50 ${time(p50.value)}`, p50.value === null ? "" : p50.when),
      tile("stored", "Stored by engines", speed(now(counted("published_bytes"))), `${count(counted("published")(last))} blocks since the start`),
      tile("loaded", "Loaded by engines", speed(now(counted("load_bytes"))), `${count(counted("load_blocks")(last))} blocks since the start`),
      tile("sessions", "Sessions", count(occupied("sessions")(last)), `${count(occupied("leases")(last))} loads under way`),
    );
  }

  const tierNames = () => [...new Set(tenants(samples.at(-1)).flatMap((each) => each.tiers.map((tier) => tier.tier)))];

  function tiers() {
    const last = samples.at(-1);
    byId("tiers").replaceChildren(...tierNames().map((tier) => {
      const [used, capacity] = [ofTier(tier, "used_bytes")(last), ofTier(tier, "capacity_bytes")(last)];
      const before = since(RECENT_MS);
      const change = (used - ofTier(tier, "used_bytes")(before)) / Math.max(1, (last.at - before.at) / 1000);
      const moving = change > 0 ? `▲ filling, ${speed(change)}` : change < 0 ? `▼ draining, ${speed(-change)}` : "steady";
      const states = [...new Set(tenants(last).flatMap((each) => each.tiers.filter((it) => it.tier === tier).map((it) => it.state)))];
      const colour = `var(--${tier})`;
      const part = capacity > 0 ? used / capacity : 0;
      // How much of the remote tier is used nobody knows who shares it; this node's part of it are the blocks that it knows of.
      const isShared = tier === "remote";
      const shown = isShared ? "blocks" : "used_bytes";
      const most = isShared ? Math.max(1, ...samples.map((sample) => ofTier(tier, shown)(sample))) : capacity || 1;
      const { frame } = chart([{ name: shown, colour, filled: true, value: (_, after) => ofTier(tier, shown)(after) }], isShared ? count : size, { most, small: true });
      const usable = ofTier(tier, "usable_bytes")(last);
      const room = `of ${size(capacity)}${usable > 0 && usable < capacity ? ` (${size(usable)} usable now)` : ""}, ${percent(part)}`;
      const flow = (number, what) => `${count(rate(number)(before, last))} blocks/s ${what}`;
      return make("section", { class: "card", id: `tier-${tier}` },
        make("div", { class: "row" }, make("h2", { style: { margin: "0" } }, TIERS[tier] || tier),
          make("span", { class: `pill ${states.every((state) => state === "serving") ? "good" : "warn"}` }, states.join(", ")),
          make("span", { class: "grow" }), make("span", { class: "soft" }, isShared ? "" : moving)),
        isShared ? null : make("div", { class: "bar", role: "meter", "aria-valuenow": (100 * part).toFixed(1), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `${TIERS[tier] || tier} used` },
          make("i", { style: { width: `${Math.min(100, 100 * part)}%`, background: colour } })),
        make("div", { class: "row" }, make("b", { class: "used" }, isShared ? "shared" : size(used)), make("span", { class: "soft" }, isShared ? "with other nodes; this one knows" : room),
          make("span", { class: "grow" }), make("span", { class: "soft blocks" }, `${count(ofTier(tier, "blocks")(last))} blocks`)),
        frame,
        make("div", { class: "row soft", style: { fontSize: "12px" } }, flow(ofTier(tier, "admitted_blocks"), "in"), make("span", { class: "grow" }), flow(left(tier), "out"),
          make("span", { class: "grow" }), `${count(ofTier(tier, "hit_blocks")(last))} blocks hit`));
    }));
  }

  function charts() {
    const names = tierNames();
    const of = (tier) => names.includes(tier);
    const ratios = names.length > 1 ? names.map((tier) => ({ name: TIERS[tier] || tier, colour: `var(--${tier})`, value: hitRatio(tier) })) : [];
    const flows = [
      { name: "stored", colour: "var(--host)", value: rate(counted("published_bytes")) },
      { name: "loaded", colour: "var(--second)", value: rate(counted("load_bytes")) },
    ];
    const waits = [
      { name: "look-up p50", colour: "var(--host)", value: quantile("lookups", 0.5) },
      { name: "p99", colour: "var(--second)", value: quantile("lookups", 0.99) },
    ];
    if (of("nvme")) {
      flows.push({ name: "to NVMe", colour: "var(--nvme)", value: rate(counted("nvme_written_bytes")) });
      flows.push({ name: "from NVMe", colour: "var(--remote)", value: rate(counted("nvme_read_bytes")) });
      waits.push({ name: "wait for a device p99", colour: "var(--nvme)", value: quantile("lookup_waits", 0.99) });
    }
    byId("charts").replaceChildren(
      chartCard("chart-hits", "Hit ratio of blocks", [{ name: "all", colour: "var(--second)", filled: true, value: hitRatio() }, ...ratios], percent, { most: 1 }),
      chartCard("chart-throughput", "Throughput", flows, speed),
      chartCard("chart-latency", "Latency", waits, time),
    );
  }

  function table(id, titles, rows, empty) {
    const isNumber = (column) => rows.some((row) => typeof row[column] === "object" && "number" in row[column]);
    const head = make("tr", {}, ...titles.map((title, column) => make("th", isNumber(column) ? { class: "number" } : {}, title)));
    const cell = (value) => (value && typeof value === "object"
      ? make("td", { class: "number" }, value.number) : make("td", { title: value }, value || "–"));
    byId(id).replaceChildren(rows.length
      ? make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))))
      : make("span", { class: "soft" }, empty));
  }

  const number = (value) => ({ number: typeof value === "string" ? value : count(value) });

  function tables() {
    const all = tenants(samples.at(-1));
    const each = (list) => all.flatMap((tenant) => tenant[list].map((entry) => ({ ...entry, tenant: tenant.tenant })));
    table("engines", ["engine", "pod", "model", "sessions", "loads", "leased", "held"], each("engines").map((engine) => [
      engine.name, engine.pod, engine.model, number(engine.sessions), number(engine.leases), number(engine.leased_blocks), number(engine.blocks_held),
    ]), "nobody is attached");
    const ifRemote = (...parts) => (all.some((tenant) => tenant.remote) ? parts : []);
    const titles = ["model", "namespace", "host", "NVMe", ...ifRemote("remote", "hit from there", "read there", "written there"), "look-ups", "with a hit", "stored"];
    table("namespaces", titles, each("namespaces").map((it) => [
      it.model, it.namespace.slice(0, 12), number(it.host_blocks), number(it.nvme_blocks),
      ...ifRemote(number(it.remote_blocks), number(it.remote_hit_blocks), number(size(it.remote_read_bytes)), number(size(it.remote_written_bytes))),
      number(it.lookups),
      number(it.lookups > 0 ? percent(1 - it.lookups_missed / it.lookups) : "–"), number(it.published),
    ]), "no engine has stored anything yet");
    const devices = each("devices");
    const remotes = all.map((tenant) => tenant.remote).filter((remote) => remote);
    byId("devices-card").hidden = devices.length + remotes.length === 0;
    const latency = (device, kind) => device.operations.filter((it) => it.kind === kind && it.latency_us_p50 !== null)
      .map((it) => `${time(it.latency_us_p50 / 1e6)} / ${time(it.latency_us_p99 / 1e6)}`)[0] || "–";
    table("devices", ["place", "state", "used", "of", "usable now", "blocks", "segments free", "read p50 / p99", "write p50 / p99", "waiting", "damaged"], devices.map((it) => [
      it.directory, it.writes_suspended ? `${it.state}, not writing` : it.state, number(size(it.used_bytes)), number(size(it.capacity_bytes)),
      number(it.usable_bytes === null ? "–" : size(it.usable_bytes)), number(it.blocks),
      number(`${it.segments_free + it.segments_max - it.segments} of ${it.segments_max}`), number(latency(it, "demand")), number(latency(it, "write")),
      number(it.operations.reduce((total, operation) => total + operation.waiting, 0)),
      number(Object.values(it.corrupt).reduce((a, b) => a + b, 0)),
    ]).concat(remotes.map((it) => [
      // How full it is nobody knows who shares it: the blocks are those that this node knows of.
      it.place, it.state, number("–"), number("–"), number(it.free_bytes === null ? "–" : size(Math.max(0, it.free_bytes - it.reserve_bytes))),
      number(it.blocks), number("–"), number(latency(it, "demand")), number(latency(it, "store")),
      number(it.operations.reduce((total, operation) => total + operation.waiting, 0)),
      number(Object.values(it.corrupt).reduce((a, b) => a + b, 0)),
    ])), "");
  }

  function events() {
    const { notices } = samples.at(-1).status;
    const kinds = { error: "bad", warn: "warn", info: "" };
    byId("events").replaceChildren(...notices.toReversed().map((notice) => {
      const fields = Object.entries(notice.fields).map(([name, value]) => `${name}=${value}`).join("  ");
      const at = new Date(notice.unix_ms);
      return make("div", {}, make("span", { class: "soft", title: at.toISOString() }, at.toLocaleTimeString("en-GB")),
        make("span", { class: `pill ${kinds[notice.level] ?? ""}` }, notice.level),
        make("p", {}, notice.message, " ", make("code", { class: "soft" }, fields)));
    }));
    if (!notices.length) byId("events").replaceChildren(make("span", { class: "soft" }, "nothing happened yet"));
  }

  // ---- going on

  function show() {
    if (!samples.length) {
      byId("state").textContent = failed ? "not answering" : "waiting for the daemon";
      byId("state").className = `pill ${failed ? "bad" : "warn"}`;
      byId("now").replaceChildren(...(failed ? [make("div", { class: "bad" }, failed)] : []));
      return;
    }
    for (const part of [header, attention, tiles, tiers, charts, tables, events]) part();
    document.body.dataset.samples = String(serial);
  }

  async function poll() {
    try {
      const answer = await fetch("/api/status", { cache: "no-store" });
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const status = await answer.json();
      // Another life of the daemon counts from zero.
      if (samples.length && samples.at(-1).status.boot_epoch !== status.boot_epoch) samples.length = 0;
      // Only the last answer's lists are shown.
      for (const tenant of samples.at(-1)?.status.tenants ?? []) Object.assign(tenant, { engines: [], namespaces: [], devices: [] });
      samples.push({ at: Date.now(), serial: (serial += 1), status });
      if (samples.length > SAMPLES_MAX) samples.shift();
      failed = "";
    } catch (error) {
      failed = error.message || String(error);
    }
    show();
    setTimeout(poll, POLL_MS);
  }

  byId("tenant").addEventListener("change", (event) => {
    chosen = event.target.value;
    show();
  });
  poll();
}
