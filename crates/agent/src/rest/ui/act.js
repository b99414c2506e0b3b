// What can be done. The credentials stay in this page's memory: were the browser to keep them, any other page could use them.
import { $, el } from "./dom.js";

let credentials = null;

async function send(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (credentials) headers.Authorization = `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(credentials)))}`;
  // Long: a switchover answers when the new leader accepts writes.
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: "omit", signal: AbortSignal.timeout(120000) });
  return { ok: answer.ok, status: answer.status, text: (await answer.text()).trim() };
}

const choice = (label, id, options) => el("label", {}, `${label} `, el("select", { id }, ...options.map(([value, text]) => el("option", { value }, text))));

const CLUSTER = [
  { name: "Switchover…", when: (s) => s.leader && s.others.length,
    title: () => "Hand the lead over", text: (s) => `${s.leader.name} stops in order, and another member takes over with every commit. Clients are interrupted for a moment.`,
    fields: (s) => [choice("New leader", "candidate", [["", "the fittest"], ...s.others.map((m) => [m.name, `${m.name} (${m.state})`])])],
    verb: "Switch over", call: (s) => ["POST", "/switchover", { leader: s.leader.name, ...($("candidate").value && { candidate: $("candidate").value }) }] },
  { name: "Failover…", when: (s) => !s.leader && s.others.length,
    title: () => "Make a member the leader", text: () => "There is no leader. What only the lost leader had is lost to the cluster.",
    fields: (s) => [choice("New leader", "candidate", s.others.map((m) => [m.name, `${m.name} (${m.state})`]))],
    verb: "Fail over", call: () => ["POST", "/failover", { candidate: $("candidate").value }] },
  { name: "Cancel the planned switchover…", when: (s) => s.cluster.scheduled_switchover,
    title: () => "Cancel the planned switchover", text: (s) => `It was to happen at ${s.cluster.scheduled_switchover.at}.`,
    verb: "Cancel it", call: () => ["DELETE", "/switchover"] },
  { name: "Pause…", when: (s) => !s.cluster.pause,
    title: () => "Pause the cluster", text: () => "Nobody takes over from a leader that is lost, and nothing is restarted, until it is resumed.",
    verb: "Pause", call: () => ["PATCH", "/config", { pause: true }] },
  { name: "Resume…", when: (s) => s.cluster.pause,
    title: () => "Resume", text: () => "The cluster is managed again.", verb: "Resume", call: () => ["PATCH", "/config", { pause: null }] },
];
const MEMBER = [
  { name: "Restart PostgreSQL…", when: () => true, title: (s) => `Restart PostgreSQL on ${s.me}`,
    text: (s) => (s.leader?.name === s.me ? "It is the primary: writes stop until it is back." : "Its readers are disconnected."),
    verb: "Restart", call: () => ["POST", "/restart", {}] },
  { name: "Reload…", when: () => true, title: (s) => `Reload the configuration of ${s.me}`, text: () => "Its file is read again.", verb: "Reload", call: () => ["POST", "/reload"] },
  { name: "Reinitialize…", when: (s) => s.leader && s.leader.name !== s.me, title: (s) => `Copy ${s.me} anew`,
    text: (s) => `The data directory of ${s.me} is removed and copied from another member. Until then it can not take over.`,
    verb: "Remove and copy", call: () => ["POST", "/reinitialize", { force: true }] },
];

function ask(action, state, done) {
  const dialog = $("ask"), yes = $("ask-yes"), no = $("ask-no"), answer = $("ask-answer");
  $("ask-title").textContent = action.title(state);
  $("ask-text").textContent = action.text(state);
  $("ask-fields").replaceChildren(...(action.fields?.(state) ?? []));
  $("credentials").hidden = true;
  answer.textContent = "";
  answer.className = "";
  yes.textContent = action.verb;
  no.textContent = "Leave it";
  yes.disabled = yes.hidden = false;
  yes.onclick = async (event) => {
    event.preventDefault();
    if (!$("credentials").hidden) credentials = `${$("user").value}:${$("password").value}`;
    yes.disabled = true;
    answer.className = "";
    answer.textContent = "Under way…";
    try {
      const result = await send(...action.call(state));
      answer.className = result.ok ? "good" : "bad";
      answer.textContent = result.text && !/^[[{]/.test(result.text) ? result.text : result.ok ? "Done." : `Refused (${result.status}).`;
      if (result.status === 401) {
        credentials = null;
        $("credentials").hidden = false;
        $("password").value = "";
        $("user").focus();
      }
      yes.disabled = false;
      yes.hidden = result.ok;
      if (result.ok) no.textContent = "Close";
    } catch (problem) {
      answer.className = "bad";
      answer.textContent = `No answer (${problem.message}): it may or may not have happened. Look at the members before you try again.`;
      yes.disabled = false;
    }
    done();
  };
  dialog.showModal();
  no.focus();
}

let shown = "";
export function actions(cluster, member, state, done) {
  const leader = state.cluster.members.find((m) => /leader$/.test(m.role)), me = state.explain.member;
  const s = { ...state, leader, me, others: state.cluster.members.filter((m) => m !== leader) };
  const [ofCluster, ofMember] = [CLUSTER, MEMBER].map((list) => list.filter((action) => action.when(s)));
  latest = s;
  const text = [...ofCluster, ...ofMember].map((action) => action.name).join();
  if (text === shown) return; // the button that has the focus stays
  shown = text;
  const button = (action) => {
    const node = el("button", { type: "button" }, action.name);
    node.addEventListener("click", () => ask(action, latest, done));
    return node;
  };
  cluster.replaceChildren(...ofCluster.map(button));
  member.replaceChildren(...ofMember.map(button));
}
let latest = null;
