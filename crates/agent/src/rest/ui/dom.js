// Elements, always from text: what members say is never read as HTML.
export const $ = (id) => document.getElementById(id);

export const el = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  node.append(...children.filter((child) => child != null));
  return node;
};

export const bytes = (n) => {
  if (typeof n !== "number") return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = Math.min(Math.floor(Math.log2(Math.max(n, 1)) / 10), 4);
  return `${unit ? (n / 2 ** (10 * unit)).toFixed(1) : n} ${units[unit]}`;
};
