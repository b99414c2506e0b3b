// Pictures. The table beside them says the same in words, so they are one image each to a screen reader.
import { bytes } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const draw = (name, attributes = {}, ...children) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) value != null && node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

const WIDTH = 190, HEIGHT = 62, GAP = 22, DOWN = 56;

// A replica without a known source follows the leader.
function levels(members, leads) {
  const leader = members.find(leads), source = (member) => {
    const named = members.find((other) => other.name === member.tags?.replicatefrom && other !== member);
    return member === leader ? null : named ?? leader ?? null;
  };
  const depth = (member, seen = new Set()) => {
    const from = source(member);
    return !from || seen.has(member) ? 0 : 1 + depth(from, seen.add(member));
  };
  const rows = [];
  for (const member of members) (rows[depth(member)] ??= []).push(member);
  return { rows: rows.filter(Boolean), source };
}

let drawn = "";
export function topology(place, cluster, { leads, well, words }) {
  const text = JSON.stringify(cluster.members.map((m) => [m.name, m.role, m.state, m.lag, m.tags?.replicatefrom]));
  if (text === drawn) return;
  drawn = text;
  const { rows, source } = levels(cluster.members, leads), at = new Map();
  // More than four beside each other are too small to read.
  const lines = rows.flatMap((row) => Array.from({ length: Math.ceil(row.length / 4) }, (_, n) => row.slice(n * 4, n * 4 + 4)));
  const width = Math.max(...lines.map((line) => line.length * (WIDTH + GAP)), WIDTH + GAP), height = lines.length * (HEIGHT + DOWN) - DOWN + 8;
  lines.forEach((line, y) => line.forEach((member, x) => at.set(member,
    { x: (width - line.length * (WIDTH + GAP)) / 2 + x * (WIDTH + GAP) + GAP / 2, y: 4 + y * (HEIGHT + DOWN) })));
  const edges = cluster.members.filter(source).map((member) => {
    const from = at.get(source(member)), to = at.get(member), [a, b] = [from.x + WIDTH / 2, to.x + WIDTH / 2], middle = (from.y + HEIGHT + to.y) / 2;
    return draw("path", { class: `edge${member.state === "streaming" ? "" : " broken"}`, d: `M${a} ${from.y + HEIGHT}C${a} ${middle} ${b} ${middle} ${b} ${to.y}` });
  });
  const nodes = cluster.members.map((member) => {
    const { x, y } = at.get(member);
    return draw("g", { class: `node${leads(member) ? " leader" : ""}${well(member) ? "" : " ill"}` },
      draw("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 8 }),
      draw("text", { x: x + 12, y: y + 24, "font-weight": 600 }, short(member.name, 22)),
      draw("text", { x: x + 12, y: y + 45, class: "soft" }, short(`${words(member.role)}, ${member.state}${leads(member) || !member.lag ? "" : `, ${bytes(member.lag)}`}`, 29)));
  });
  const label = cluster.members.map((m) => `${m.name}: ${words(m.role)}, ${m.state}${source(m) ? `, from ${source(m).name}` : ""}`).join("; ");
  place.replaceChildren(draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...edges, ...nodes));
}

// Above: how far behind, on a scale of its own; below: the role, as a band.
export function graph(points, name) {
  const width = 240, height = 34, band = 5;
  if (points.length < 2) return "";
  const first = points[0].at, span = Math.max(points.at(-1).at - first, 1), x = (point) => ((point.at - first) / span) * width;
  const most = Math.max(1, ...points.map((point) => (typeof point.lag === "number" ? point.lag : 0)));
  const y = (point) => height - band - 4 - (point.lag / most) * (height - band - 8);
  let pen = "M";
  const path = points.map((point) => {
    if (typeof point.lag !== "number") { pen = "M"; return ""; }
    const step = `${pen}${x(point).toFixed(1)} ${y(point).toFixed(1)}`;
    pen = "L";
    return step;
  }).join("");
  const bands = [];
  points.forEach((point, n) => {
    const last = bands.at(-1), end = x(points[n + 1] ?? point);
    if (last?.role === point.role) last.end = end;
    else bands.push({ role: point.role, start: x(point), end });
  });
  return draw("svg", { class: "graph", width, height, role: "img", "aria-label": `${name}: at most ${most} bytes behind; ${bands.map((b) => b.role).join(", then ")}` },
    draw("path", { class: "lag", d: path }),
    ...bands.map((b) => draw("rect", { class: b.role, x: b.start, y: height - band, width: Math.max(b.end - b.start, 1), height: band })));
}
