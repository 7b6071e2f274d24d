// Open pages follow what happens: regions come over one stream and take the place of what was there.
"use strict";

(() => {
  let chart = null;
  let signature = currentSignature();

  function currentSignature() {
    const marked = document.querySelector("[data-signature]");
    return marked ? marked.dataset.signature : "";
  }

  // Whoever stands on a link in a region with the keyboard goes on standing there.
  function swap(id, html) {
    const region = document.getElementById(id);
    if (!region || region.innerHTML === html) return;
    const held = region.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const scrolled = [...region.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    region.innerHTML = html;
    [...region.querySelectorAll(".scroll")].forEach((one, number) => { one.scrollLeft = scrolled[number] || 0; });
    if (held) {
      const again = [...region.querySelectorAll("a")].find((link) => link.getAttribute("href") === held);
      if (again) again.focus({ preventScroll: true });
    }
  }

  function follow(address) {
    const stream = new EventSource(address);
    stream.addEventListener("regions", (message) => {
      for (const [id, html] of Object.entries(JSON.parse(message.data))) swap(id, html);
      draw();
      const now = currentSignature();
      const actions = document.getElementById("actions");
      if (now !== signature && actions && window.htmx) window.htmx.trigger(actions, "refresh");
      signature = now;
    });
    stream.addEventListener("ended", () => { stream.close(); window.location.reload(); });
    window.addEventListener("pagehide", () => stream.close());
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // A tick's time in UTC; with seconds where ticks stand closer than a minute.
  function clocks(ticks) {
    const isClose = ticks.length > 1 && ticks[1] - ticks[0] < 60;
    return ticks.map((tick) => new Date(tick * 1000).toISOString().slice(11, isClose ? 19 : 16) + (isClose ? "" : " UTC"));
  }

  function draw() {
    const place = document.querySelector("[data-chart]");
    const found = document.querySelector("[data-points]");
    if (!place || !found || !window.uPlot) return;
    const points = JSON.parse(found.dataset.points);
    if (points.length < 2) return;
    const data = [points.map((point) => point[0]), points.map((point) => point[1])];
    if (chart) { chart.setData(data); return; }
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--hair"), width: 1 }, ticks: { show: false } };
    chart = new window.uPlot({
      width: place.clientWidth || 600,
      height: 190,
      legend: { show: false },
      cursor: { y: false },
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 10)] } },
      series: [{}, { stroke: colour("--run"), fill: colour("--run-bg"), width: 2, points: { show: false } }],
      axes: [{ ...axis, size: 34, values: (_, ticks) => clocks(ticks) }, { ...axis, size: 70, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString("en")) }],
    }, data, place);
    new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: 190 })).observe(place);
  }

  document.addEventListener("DOMContentLoaded", () => {
    draw();
    if (document.body.dataset.live) follow(document.body.dataset.live);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (chart) { chart.destroy(); chart = null; draw(); }
  });
})();
