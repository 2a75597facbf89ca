// Elements. Text is only ever set as text: nothing here, or anywhere on the page, makes HTML of a string.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; attributes that begin with -- are custom properties of its style. */
export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element. */
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

export const show = (node, visible) => {
  node.hidden = !visible;
};

/** `p` with `now` or `later` below it. */
export const p = (what) => el("span", { class: "p" }, "p", el("sub", {}, what));

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
export const seconds = (ms) => (ms < 9950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`);
export const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;
export const probability = (value) => (typeof value === "number" ? value.toFixed(2) : "–");
