// p_now and p_later over tokens, with the threshold and the cut.

import { count, probability, svg } from "./dom.js";

const HEIGHT = 264;
const MARGIN = { left: 34, right: 14, top: 26, bottom: 30 };
const [FEW, MANY] = [40, 120]; // steps: with more than these, dots are smaller, or left out
const NICE = [1, 2, 2.5, 5, 10];

function niceStep(most, wanted) {
  const rough = most / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * NICE.find((factor) => factor * power >= rough);
}

function ticks(most) {
  const step = Math.max(1, niceStep(most, 4));
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => Math.round(index * step));
}

const scored = (step) => typeof step.p_now === "number";

/**
 * `series`: attempts to be drawn, each {offset, steps, faded, rejected}. `total`: tokens that the axis must hold.
 * `threshold`: the p_now that stops, or null. `cut`: {at, total, label} or null.
 */
export class Chart {
  constructor(container, onStep) {
    Object.assign(this, { container, onStep, shown: null, dots: new Map(), hot: null });
    new ResizeObserver(() => this.shown && this.draw(this.shown)).observe(container);
  }

  draw(shown) {
    this.shown = shown;
    const width = Math.max(240, Math.round(this.container.clientWidth));
    const most = Math.max(40, shown.total);
    const x = (tokens) => MARGIN.left + (tokens / most) * (width - MARGIN.left - MARGIN.right);
    const y = (share) => HEIGHT - MARGIN.bottom - share * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.scale = { x, y };
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": this.describe(shown) });
    root.append(this.pattern(), this.grid(most, width, shown.threshold), ...this.cutArea(shown, most));
    shown.series.forEach((series, index) => root.append(this.line(series, shown.series[index + 1])));
    root.append(...this.threshold(shown, width), ...this.cutLine(shown));
    this.hot = svg("g", { class: "hot" });
    root.append(this.hot);
    this.container.replaceChildren(root);
  }

  describe({ series, threshold, cut }) {
    const steps = series.flatMap((one) => one.steps).filter(scored);
    const last = steps.at(-1);
    const parts = [`${count(steps.length, "scored step")}`];
    if (last) parts.push(`the last with p_now ${probability(last.p_now)} and p_later ${probability(last.p_later)}`);
    if (threshold !== null) parts.push(`threshold ${probability(threshold)}`);
    if (cut) parts.push(`cut after ${count(cut.at, "token")}`);
    return parts.join("; ");
  }

  pattern() {
    const hatch = svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "hatch" }));
    return svg("defs", {}, hatch);
  }

  grid(most, width, threshold) {
    const { x, y } = this.scale;
    const group = svg("g", { class: "grid" });
    for (const share of [0, 0.5, 1]) {
      group.append(svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(share), y2: y(share), class: share ? "" : "axis" }));
      const covered = threshold !== null && Math.abs(threshold - share) < 0.07;
      if (!covered) group.append(svg("text", { x: MARGIN.left - 8, y: y(share) + 4, "text-anchor": "end" }, share === 0.5 ? ".5" : String(share)));
    }
    const every = ticks(most);
    const marks = every.filter((tokens) => tokens === every.at(-1) || x(every.at(-1)) - x(tokens) > 84);
    for (const tokens of marks)
      group.append(svg("text", { x: x(tokens), y: HEIGHT - 10, "text-anchor": tokens ? "middle" : "start" }, tokens === marks.at(-1) ? `${tokens} tokens` : String(tokens)));
    const last = group.lastChild;
    if (x(marks.at(-1)) > width - 50) last.setAttribute("text-anchor", "end"), last.setAttribute("x", width - MARGIN.right);
    return group;
  }

  line({ offset, steps, faded, rejected, from = null }) {
    const { x, y } = this.scale;
    const group = svg("g", { class: ["series", faded && "faded", rejected && "rejected"].filter(Boolean).join(" ") });
    const known = steps.filter(scored);
    const lead = from === null ? known : [from, ...known];
    const path = (name) => lead.map((step, index) => `${index ? "L" : "M"}${x(offset + step.to).toFixed(1)} ${y(step[name]).toFixed(1)}`).join("");
    if (lead.length) group.append(svg("path", { d: path("p_later"), class: "later" }), svg("path", { d: path("p_now"), class: "now" }));
    const radius = known.length > FEW ? 2.2 : 3.4;
    for (const step of known.length > MANY ? [] : known) {
      const dot = svg("circle", { cx: x(offset + step.to).toFixed(1), cy: y(step.p_now).toFixed(1), r: radius, class: "dot", "--p": step.p_now });
      dot.addEventListener("pointerenter", () => this.onStep({ step }));
      dot.addEventListener("pointerleave", () => this.onStep(null));
      group.append(dot);
    }
    if (rejected && known.length) {
      const last = known.at(-1);
      const [cx, cy] = [x(offset + last.to), y(last.p_now)];
      group.append(svg("path", { d: `M${cx - 5} ${cy - 5}L${cx + 5} ${cy + 5}M${cx - 5} ${cy + 5}L${cx + 5} ${cy - 5}`, class: "cross" }));
    }
    if (offset > 0) group.append(svg("line", { x1: x(offset), x2: x(offset), y1: y(0), y2: y(1), class: "border" }));
    return group;
  }

  threshold({ threshold }, width) {
    if (threshold === null) return [];
    const { y } = this.scale;
    const at = y(Math.min(1, threshold));
    return [
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at, class: "threshold" }),
      svg("text", { x: MARGIN.left - 8, y: at + 4, "text-anchor": "end", class: "threshold-label" }, probability(threshold)),
    ];
  }

  cutArea({ cut }, most) {
    if (!cut || cut.total <= cut.at) return [];
    const { x, y } = this.scale;
    return [svg("rect", { x: x(cut.at), y: y(1), width: Math.max(0, x(Math.min(most, cut.total)) - x(cut.at)), height: y(0) - y(1), class: "beyond", fill: "url(#hatch)" })];
  }

  cutLine({ cut, total }) {
    if (!cut) return [];
    const { x, y } = this.scale;
    const late = cut.at > 0.6 * Math.max(40, total);
    return [
      svg("line", { x1: x(cut.at), x2: x(cut.at), y1: y(1) - 10, y2: y(0), class: "cut" }),
      svg("text", { x: x(cut.at) + (late ? -6 : 6), y: y(1) - 8, "text-anchor": late ? "end" : "start", class: "cut-label" }, cut.label),
    ];
  }

  /** Mark a step; null for none. */
  highlight(step) {
    if (!this.hot) return;
    this.hot.replaceChildren();
    const series = step && this.shown.series.find((one) => one.steps.includes(step));
    if (!series || !scored(step)) return;
    const { x, y } = this.scale;
    const at = x(series.offset + step.to);
    const end = at > this.container.clientWidth - 90;
    this.hot.append(
      svg("line", { x1: at, x2: at, y1: y(0), y2: y(1), class: "hair" }),
      svg("circle", { cx: at, cy: y(step.p_later), r: 4, class: "later" }),
      svg("circle", { cx: at, cy: y(step.p_now), r: 5.5, class: "dot", "--p": step.p_now }),
      svg("text", { x: at + (end ? -8 : 8), y: Math.max(y(1) + 12, y(step.p_now) - 9), "text-anchor": end ? "end" : "start" }, `${probability(step.p_now)} / ${probability(step.p_later)}`),
    );
  }
}

/** A small picture of p_now for a list. */
export function sparkline(steps, cut) {
  const [width, height] = [88, 26];
  const known = steps.filter(scored);
  const most = Math.max(1, steps.at(-1)?.to ?? 1);
  const at = (step) => `${((step.to / most) * (width - 4) + 2).toFixed(1)} ${(height - 3 - step.p_now * (height - 6)).toFixed(1)}`;
  const line = (part, name) => svg("path", { class: name, d: part.map((step, index) => `${index ? "L" : "M"}${at(step)}`).join("") });
  const before = known.filter((step) => cut === null || step.to <= cut);
  const behind = known.slice(Math.max(0, before.length - 1));
  const x = cut === null ? null : ((Math.min(cut, most) / most) * (width - 4) + 2).toFixed(1);
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    line(behind, "later"), line(before, "now"), x === null ? null : svg("line", { x1: x, x2: x, y1: 1, y2: height - 1, class: "cut" }));
}
