"use strict";
// Without this script the page is whole: it reloads itself and its buttons are forms. With it the
// page is brought up to date in place, and filter, selection and theme are the reader's own.
(() => {
  const body = document.body;
  const byId = (id) => document.getElementById(id);
  const [filter, show, refresh, theme] = ["filter", "show", "refresh", "theme"].map(byId);
  body.classList.add("script");

  const kept = (name, fallback) => {
    try { return localStorage.getItem("lb." + name) ?? fallback; } catch { return fallback; }
  };
  const keep = (name, value) => {
    try { localStorage.setItem("lb." + name, value); } catch { /* private mode: not kept */ }
  };

  const paint = () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
  };
  theme.value = kept("theme", "");
  theme.addEventListener("change", () => { keep("theme", theme.value); paint(); });
  paint();

  const select = () => {
    const text = filter.value.trim().toLowerCase();
    for (const service of document.querySelectorAll("section.service")) {
      const head = service.querySelector("header").textContent.toLowerCase();
      let shown = 0;
      for (const row of service.querySelectorAll("tbody tr[data-state]")) {
        const isUp = !["down", "going-up"].includes(row.dataset.state);
        const fits = show.value === "all" || (show.value === "up") === isUp;
        const named = head.includes(text) || row.dataset.server.includes(text);
        row.hidden = !(fits && named);
        if (!row.hidden) shown += 1;
      }
      service.hidden = shown === 0 && (text !== "" || show.value !== "all");
    }
  };
  show.value = location.pathname.includes(";up") ? "up" : kept("show", "all");
  if (!show.value) show.value = "all";
  show.addEventListener("change", () => { keep("show", show.value); select(); });
  filter.addEventListener("input", select);
  filter.form.addEventListener("submit", (event) => event.preventDefault());

  const states = () => {
    const found = new Map();
    for (const row of document.querySelectorAll("section.service tbody tr[data-state]")) {
      const service = row.closest("section").dataset.service;
      found.set(service + "/" + row.dataset.server, row.querySelector(".state").textContent);
    }
    return found;
  };
  const title = document.title;
  let before = states();
  const tell = () => {
    const after = states();
    const news = [];
    for (const [server, state] of after) {
      if (before.has(server) && before.get(server) !== state) news.push(server + " is " + state);
    }
    if (news.length) byId("news").textContent = news.join(", ");
    before = after;
    const down = [...after.values()].filter((state) => state.startsWith("DOWN")).length;
    document.title = down ? "(" + down + " down) " + title : title;
  };

  // A password in the address bar is part of the page's address, but not of a request's.
  const own = location.origin + location.pathname.replace(/;.*/, "");
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    const seconds = Number(refresh.value);
    if (seconds > 0) timer = setTimeout(update, seconds * 1000);
  };
  const update = async () => {
    const lost = byId("lost");
    const live = byId("live");
    try {
      const response = await fetch(own, { cache: "no-store", credentials: "same-origin" });
      if (!response.ok) throw new Error("the daemon answers " + response.status);
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      const next = fresh.getElementById("live");
      if (!next) throw new Error("the daemon answers with something else");
      // Whoever is typing or about to press a button is not interrupted.
      const busy = live.contains(document.activeElement);
      if (!busy) {
        const result = byId("result");
        live.replaceWith(document.adoptNode(next));
        if (result && performance.now() < 60000) byId("live").prepend(result);
        tell();
        select();
      }
      lost.textContent = "Paused while you are at a button or field: click elsewhere to go on.";
      lost.hidden = !busy;
      if (!busy) {
        for (const part of ["uptime"]) byId(part).textContent = fresh.getElementById(part).textContent;
        document.querySelector("footer time").textContent = fresh.querySelector("footer time").textContent;
      }
    } catch (error) {
      lost.textContent = "Not up to date: " + error.message;
      lost.hidden = false;
    }
    later();
  };
  const configured = body.dataset.refresh;
  if (![...refresh.options].some((option) => option.value === configured)) {
    refresh.add(new Option(configured + " s", configured));
  }
  refresh.value = kept("refresh", configured);
  if (!refresh.value) refresh.value = configured;
  refresh.addEventListener("change", () => { keep("refresh", refresh.value); later(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && refresh.value !== "0") update(); });
  tell();
  select();
  later();
})();
