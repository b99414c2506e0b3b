// What the members say, read again and again, and shown. Nothing is kept but in this page.
import { $, bytes, el } from "./dom.js";
import { topology, graph } from "./draw.js";
import { actions } from "./act.js";

const EVERY = 2000, PATIENCE = 5000, KEPT = 300;
const get = async (path) => {
  const answer = await fetch(path, { credentials: "omit", cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
};

const past = new Map(); // member -> [{ lag, role, at }]
let journal = [], journalAt = 0, journalProblem = "";

const leads = (member) => /leader$/.test(member.role);
const well = (member) => ["running", "streaming", "in archive recovery"].includes(member.state);
const position = (lsn) => `${Math.floor(lsn / 2 ** 32).toString(16).toUpperCase()}/${(lsn % 2 ** 32).toString(16).toUpperCase()}`;
// As PostgreSQL's log has it, in the time zone of whoever looks.
const clock = (at) => at.toLocaleString("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const words = (role) => role.replace(/_/g, " ");

function notes(member) {
  const out = [];
  if (member.pending_restart) out.push(`restart pending: ${Object.keys(member.pending_restart_reason ?? {}).join(", ") || "yes"}`);
  if (member.scheduled_restart) out.push(`restart at ${member.scheduled_restart.schedule}`);
  if (member.fence) out.push(`fence ${member.fence}`);
  for (const [tag, value] of Object.entries(member.tags ?? {})) out.push(`${tag}: ${value}`);
  return out.join("; ");
}

function remember(cluster) {
  const at = Date.now(), seen = new Set();
  for (const member of cluster.members) {
    seen.add(member.name);
    const list = past.get(member.name) ?? past.set(member.name, []).get(member.name);
    list.push({ at, lag: leads(member) ? 0 : member.lag, role: leads(member) ? "lead" : well(member) ? "replica" : "gone" });
  }
  for (const [name, list] of past) {
    if (!seen.has(name)) list.push({ at, lag: null, role: "gone" });
    if (list.length > KEPT) list.splice(0, list.length - KEPT);
    if (list.every((point) => point.role === "gone") && list.length > KEPT - 1) past.delete(name);
  }
}

function showMembers(cluster, me) {
  $("rows").replaceChildren(...cluster.members.map((member) => {
    const page = member.api_url && new URL("/ui", member.api_url).href;
    const name = page && member.name !== me ? el("a", { href: page }, member.name) : member.name;
    const lag = leads(member) ? "" : bytes(member.lag);
    return el("tr", { "data-member": member.name },
      el("th", { scope: "row" }, name), el("td", {}, words(member.role)),
      el("td", { class: well(member) ? "good" : "bad" }, member.state), el("td", {}, String(member.timeline ?? "")),
      el("td", { class: lag === "unknown" ? "warn" : null }, lag), el("td", {}, notes(member)),
      el("td", {}, graph(past.get(member.name) ?? [], member.name)));
  }));
}

function showReadiness(cluster, explain) {
  const answer = $("ready"), leader = cluster.members.find(leads);
  $("candidates").replaceChildren();
  const say = (mood, ...what) => { answer.className = `answer ${mood}`; answer.replaceChildren(...what); };
  if (!leader) return say("bad", "There is no leader now.");
  if (cluster.pause) return say("warn", "Nobody would take over: the cluster is paused.");
  if (!explain.takeover) {
    return say("soft", leader.api_url && leader.name !== explain.member
      ? el("span", {}, "The leader knows: see the page of ", el("a", { href: new URL("/ui", leader.api_url).href }, leader.name), ".")
      : "Not known yet.");
  }
  const fit = explain.takeover.members.filter((member) => member.fit);
  if (explain.takeover.ready) {
    const losing = Math.min(...fit.map((member) => member.loses ?? 0));
    say("good", `${fit.length > 1 ? `One of ${fit.length} members` : fit[0].name} would take over, ` +
      (explain.takeover.synchronous ? "with every acknowledged commit." : losing ? `without the last ${bytes(losing)} of the log.` : "and has all of the log."));
  } else say("bad", "Nobody could take over.");
  $("candidates").append(...explain.takeover.members.map((member) =>
    el("li", { class: member.fit ? "good" : "warn" }, `${member.fit ? "✓" : "✗"} ${member.name}: ` +
      (member.why ?? (member.loses == null ? "how far it is, is not known" : member.loses ? `${bytes(member.loses)} behind` : "has all of the log")))));
}

function showNow(explain) {
  $("goal").textContent = explain.goal ?? explain.state;
  $("why").textContent = explain.why ? `Because: ${explain.why}` : "";
  const rows = [["Waits for", (explain.waiting_for ?? []).join(", ")],
    ["Lease", explain.lease?.held ? `held, ${explain.lease.remaining_seconds.toFixed(1)} s left` : explain.lease?.leader ? `held by ${explain.lease.leader}` : "free"],
    ["Fence", explain.fence && `${explain.fence.state}${explain.fence.firings ? `, has fired ${explain.fence.firings} times` : ""}`],
    ["Store", explain.store && `${explain.store.kind}: ${explain.store.summary}${explain.store.usable ? "" : " (what is known is old)"}`],
    ["Rule", explain.rule && `${explain.rule}, ${explain.section}: ${explain.name}`]];
  $("facts").replaceChildren(...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

function showEvents(history, me) {
  // One line for as long as it goes on doing the same.
  const decided = [];
  for (const { decided: d } of journal.filter((event) => event.decided)) {
    if (decided.at(-1)?.rest.goal === d.goal) decided.at(-1).rest = d;
    else decided.push({ at: d.at, title: `${me}: ${d.goal}`, why: d.why, rest: d });
  }
  const led = history.map(([timeline, lsn, reason, at, leader]) => ({ at: Date.parse(at), lead: true,
    title: `${leader ?? "a member"} became the leader; timeline ${timeline} ended at ${position(lsn)}`, why: reason }));
  const all = [...led, ...($("only-leaders").checked ? [] : decided)].sort((a, b) => (b.at || 0) - (a.at || 0)).slice(0, 200);
  const open = new Set([...$("events").querySelectorAll("details[open]")].map((node) => node.dataset.key));
  $("events").replaceChildren(...all.map((event) => {
    const key = `${event.at} ${event.title}`, moment = event.at ? new Date(event.at) : null;
    const details = el("details", { "data-key": key }, el("summary", {},
      el("time", { datetime: moment?.toISOString() }, moment ? clock(moment) : "at an unknown time"), event.lead ? el("strong", {}, event.title) : event.title));
    if (event.why) details.append(el("p", {}, event.why));
    if (event.rest) details.append(el("p", { class: "soft" }, `rule ${event.rest.rule}, ${event.rest.section}: ${event.rest.name}`),
      el("pre", {}, JSON.stringify(event.rest.seen ?? {}, null, 1)));
    details.open = open.has(key);
    return el("li", {}, details);
  }));
  if (!all.length) $("events").append(el("li", { class: "soft" }, "Nothing yet."));
  if (journalProblem) $("events").prepend(el("li", { class: "warn" }, journalProblem));
}

function notices(cluster, explain) {
  const out = [];
  if (cluster.pause) out.push(["warn", "The cluster is paused: nobody takes over from a leader that is lost."]);
  const planned = cluster.scheduled_switchover;
  if (planned) out.push(["warn", `Switchover at ${planned.at}${planned.from ? ` from ${planned.from}` : ""}${planned.to ? ` to ${planned.to}` : ""}.`]);
  if (explain.loss) out.push(["bad", "A member has lost what only it had: see surus loss list."]);
  for (const want of explain.wanting ?? []) out.push(["warn", typeof want === "string" ? want : JSON.stringify(want)]);
  for (const stall of Array.isArray(explain.stalls) ? explain.stalls : []) out.push(["bad", typeof stall === "string" ? stall : JSON.stringify(stall)]);
  const text = JSON.stringify(out);
  if ($("notices").dataset.text === text) return; // or a screen reader would say it again
  $("notices").dataset.text = text;
  $("notices").replaceChildren(...out.map(([mood, what]) => el("p", { class: `notice ${mood}` }, what)));
}

async function readJournal() {
  if (Date.now() - journalAt < 10000) return;
  journalAt = Date.now();
  try {
    journal = (await get("/explain?since=3600s")).events ?? [];
    journalProblem = "";
  } catch (problem) {
    journalProblem = `The journal could not be read: ${problem.message}`;
  }
}

let state = null;
async function look() {
  try {
    const [explain, cluster, history] = await Promise.all([get("/explain"), get("/cluster"), get("/history"), readJournal()]);
    state = { explain, cluster, history };
    remember(cluster);
    document.title = `${cluster.scope} · Surus`;
    $("scope").textContent = cluster.scope;
    $("me").textContent = explain.member;
    for (const node of document.querySelectorAll(".me")) node.textContent = explain.member;
    $("link").textContent = "";
    notices(cluster, explain);
    showReadiness(cluster, explain);
    topology($("topology"), cluster, { leads, well, words });
    showMembers(cluster, explain.member);
    showNow(explain);
    showEvents(history, explain.member);
    actions($("cluster-actions"), $("member-actions"), state, again);
  } catch (problem) {
    $("link").textContent = `does not answer: ${problem.message}. What is shown is old.`;
  }
  $("link").className = $("link").textContent ? "bad" : "";
}

let timer;
async function again() {
  clearTimeout(timer);
  await look();
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(again, EVERY);
}
document.addEventListener("visibilitychange", () => document.hidden || again());
$("only-leaders").addEventListener("change", () => state && showEvents(state.history, state.explain.member));
again();
